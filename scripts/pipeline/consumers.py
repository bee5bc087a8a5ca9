"""Other projects that use libmha, built with Meson and with CMake: installed, and as a Meson subproject."""

import shlex
import shutil

from pipeline.build import BUILD, GCC, ROOT, Broken, configure, readme_example, run, try_run
from pipeline.results import FAILED, PASSED, Result, check

CONSUMER = ROOT / "tests" / "consumer"


def attempt(name, use):
    """The result of a way to use the library; `use` builds the program and returns its path and environment."""
    try:
        program, env = use()
        run([program], "consumers", env)
        return Result(name, PASSED)
    except Broken as broken:
        return Result(name, FAILED, f"{broken}\n{broken.output}")


def install(default_library):
    """Installs into build/prefix-<default_library>; returns the directory with libraries in it."""
    name = f"install-{default_library}"
    prefix = BUILD / f"prefix-{default_library}"
    directory = configure(name, [f"--prefix={prefix}", "--libdir=lib", f"-Ddefault_library={default_library}"], GCC)
    shutil.rmtree(prefix, ignore_errors=True)
    run(["meson", "install", "-C", directory], name)
    return prefix / "lib"


def with_meson(libdir, name, options=()):
    directory = BUILD / "consumers" / name
    shutil.rmtree(directory, ignore_errors=True)
    run(["meson", "setup", directory, CONSUMER, *options], "consumers", {"PKG_CONFIG_PATH": str(libdir / "pkgconfig")})
    run(["meson", "compile", "-C", directory], "consumers")
    return directory / "use", {"LD_LIBRARY_PATH": str(libdir)}


def with_cmake(libdir, name):
    directory = BUILD / "consumers" / name
    shutil.rmtree(directory, ignore_errors=True)
    run(["cmake", "-G", "Ninja", "-S", CONSUMER, "-B", directory, f"-DCMAKE_PREFIX_PATH={libdir.parent}"], "consumers")
    run(["cmake", "--build", directory], "consumers")
    return directory / "use", {}


def as_subproject():
    source = BUILD / "consumers" / "with-subproject"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(CONSUMER, source)
    (source / "subprojects").mkdir()
    (source / "subprojects" / "mha").symlink_to(ROOT)
    run(["meson", "setup", "build", "--force-fallback-for=mha"], "consumers", cwd=source)
    run(["meson", "compile", "-C", "build"], "consumers", cwd=source)
    return source / "build" / "use", {}


COMPILERS = {".c": ["gcc", "-std=c11"], ".cpp": ["g++", "-std=c++17"]}


def with_pkg_config(libdir, source):
    """Builds a program of one file, its warnings errors."""
    program = BUILD / "consumers" / source.name.replace(".", "-")
    flags = run(
        ["pkg-config", "--cflags", "--libs", "mha"], "consumers", {"PKG_CONFIG_PATH": str(libdir / "pkgconfig")}
    )
    strict = ["-O2", "-pthread", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    compiler = COMPILERS[source.suffix]
    run([*compiler, *strict, source, "-o", program, *shlex.split(flags), "-lm"], "consumers")
    return program, {"LD_LIBRARY_PATH": str(libdir)}


def example_results(libdir):
    readme = BUILD / "consumers" / "readme.c"
    readme.write_text(readme_example("c"))
    sources = [readme, *sorted((ROOT / "examples").glob("*.c*"))]
    return [
        attempt(f"consumers: {source.name}, pkg-config", lambda source=source: with_pkg_config(libdir, source))
        for source in sources
    ]


def newer_version_result(libdir):
    directory = BUILD / "consumers" / "newer"
    shutil.rmtree(directory, ignore_errors=True)
    command = ["cmake", "-G", "Ninja", "-S", CONSUMER, "-B", directory, "-DMHA_WANTED=0.2"]
    status, output = try_run([*command, f"-DCMAKE_PREFIX_PATH={libdir.parent}"], "consumers")
    return check("consumers: CMake refuses a version that is too old", status != 0 and "0.1.0" in output, output)


def results():
    both, static = install("both"), install("static")
    return [
        attempt("consumers: Meson, shared library", lambda: with_meson(both, "meson-shared")),
        attempt("consumers: Meson, static library", lambda: with_meson(both, "meson-static", ["-Dprefer_static=true"])),
        attempt("consumers: Meson, static build", lambda: with_meson(static, "meson-static-only")),
        attempt("consumers: CMake, shared library", lambda: with_cmake(both, "cmake-shared")),
        attempt("consumers: CMake, static build", lambda: with_cmake(static, "cmake-static")),
        attempt("consumers: Meson subproject", as_subproject),
        *example_results(both),
        newer_version_result(both),
    ]
