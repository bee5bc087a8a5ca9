"""The wheel that scripts/wheel builds: what is in it, and whether it works on its own."""

import pathlib
import re
import shutil
import sys
import zipfile

from pipeline.build import BUILD, ROOT, run, try_run
from pipeline.results import check

LOG = "wheel"
# Of every Linux with the glibc that the wheel's tag names.
SYSTEM = re.compile(r"(lib(c|m|pthread|gcc_s|stdc\+\+)|ld-linux-[\w-]+)\.so\.\d")
# Prints what a process that has computed something on two threads has mapped.
USE = """
import numpy as np, mha
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 4, 64, 32), np.float32)
weights = np.exp(q @ k.mT / np.sqrt(32))
np.testing.assert_allclose(mha.attention(q, k, v, threads=2), weights / weights.sum(-1, keepdims=True) @ v, atol=1e-5)
print(open("/proc/self/maps").read())
"""


def needed_by(library):
    return set(re.findall(r"NEEDED.*\[(.*)\]", run(["readelf", "--dynamic", "--wide", library], LOG)))


def content_results(wheel):
    contents = BUILD / "wheel" / "contents"
    zipfile.ZipFile(wheel).extractall(contents)
    (extension,) = contents.glob("mha/_mha.*.so")
    bundled = {library.name: library for library in contents.glob("mha.libs/*")}
    exported = run(["nm", "--dynamic", "--defined-only", "--format=posix", extension], LOG).split()[::4]
    needed = set().union(*map(needed_by, [extension, *bundled.values()]))
    foreign = {name for name in needed - set(bundled) if not SYSTEM.fullmatch(name)}
    licences = {file.name for file in contents.glob("*.dist-info/licenses/**/*") if file.is_file()}
    wanted = {"LICENSE", "NOTICE", *(file.name for file in (ROOT / "python" / "licenses").iterdir())}
    unlicensed = {re.match(r"lib(\w+)-", name)[1].lower() for name in bundled} - {
        pathlib.Path(name).stem.lower() for name in licences
    }
    return [
        check("wheel: its tag is that of a glibc", "-manylinux_2_" in wheel.name, wheel.name),
        check("wheel: the extension exports its entry and no more", exported == ["PyInit__mha"], "\n".join(exported)),
        check("wheel: no library is needed that it does not bring", bundled and not foreign, "\n".join(foreign)),
        check("wheel: licences of all that it contains", licences == wanted and not unlicensed, str(licences)),
    ]


def use_results(wheel):
    environment = BUILD / "wheel" / "environment"
    run([sys.executable, "-m", "venv", environment], LOG)
    python = environment / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], LOG)
    status, output = try_run([python, "-I", "-c", USE], LOG, cwd=environment)
    mapped = set(re.findall(r"/\S*(?:sleef|pthreadpool|_mha\.)\S*", output))
    own = {library for library in mapped if library.startswith(str(environment))}
    return [
        check("wheel: computes in a clean environment", status == 0, output),
        check("wheel: by its own libraries, not the system's", len(own) == 3 and own == mapped, "\n".join(mapped)),
    ]


def results():
    shutil.rmtree(BUILD / "wheel", ignore_errors=True)
    wheel = ROOT / run([ROOT / "scripts" / "wheel"], LOG).splitlines()[-1]
    return content_results(wheel) + use_results(wheel)
