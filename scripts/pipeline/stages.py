"""The stages of scripts/test, in order.  A stage is a function that returns (results, instruction sets)."""

import pathlib
import platform

from pipeline import consumers, objects, wheel
from pipeline.build import BUILD, CLANG, GCC, LOGS, ROOT, Broken, compile_only, readme_example, run, run_tests, try_run
from pipeline.results import FAILED, SKIPPED, Isas, Result, check, of_pytest

TESTS = "-Dtests=true"
ALL = [TESTS, "-Dbench=true", "-Dpython=true"]
QUICK = {"MHA_TEST_QUICK": "1"}
IS_X86 = platform.machine() == "x86_64"
# Sanitizers report the first error and end the test; Meson's own defaults for them hold as well.  With -O2 kernels take
# three times as long to compile.
SANITIZED = [TESTS, "-Ddefault_library=static", "-Dbuildtype=debugoptimized", "-Doptimization=1"]


def gcc(quick):
    """gcc, warnings are errors; every test on every instruction set of this CPU"""
    directory, built = compile_only("gcc", ALL)
    results, isas = run_tests(directory, "gcc", env=QUICK if quick else None)
    return [built, *results], isas


def clang(quick):
    """clang 19, warnings are errors; the short list of cases"""
    directory, built = compile_only("clang", ALL, CLANG)
    results, isas = run_tests(directory, "clang", env=QUICK)
    return [built, *results], isas


# What -Demulate=true computes in AVX-512.
EMULATED = {"avx512bf16", "amx"}


def has_avx512():
    words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    return {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= words


def compile_emulated():
    options = [TESTS, "-Dpython=true", "-Ddefault_library=static", "-Demulate=true"]
    return compile_only("emulated", options + [f"-Dpython.{kind}dir=/python" for kind in ("purelib", "platlib")])


def emulated(quick):
    """AVX512-BF16 and AMX, computed in AVX-512 instead; the short list of cases, and Python's in half precision"""
    if not has_avx512():
        return [Result("emulated: needs AVX-512", SKIPPED)], Isas()
    directory, built = compile_emulated()
    results, isas = run_tests(directory, "emulated", env=QUICK)
    isas.exercised = {f"{isa}-emulated" if isa in EMULATED else isa for isa in isas.exercised}
    of_python = emulated_pytest("python", "emulated", directory, pytest_files("python/tests", "dtypes", "layer_dtypes"))
    return [built, *results, *of_python], isas


def emulated_frameworks(quick):
    """tests in half precision with PyTorch, Transformers and ONNX; AVX512-BF16 and AMX computed in AVX-512 instead"""
    if not has_avx512():
        return [Result("emulated-frameworks: needs AVX-512", SKIPPED)], Isas()
    interpreter = python_of_frameworks("emulated-frameworks")
    directory, _ = compile_emulated()
    names = ["onnx_half", "transformers", *(f"torch_{n}" for n in ("accuracy", "multihead", "precision", "random", "sdpa"))]
    arguments = ["-k", "half or dtypes or precision or random", *pytest_files("python/tests/frameworks", *names)]
    return emulated_pytest(interpreter, "emulated-frameworks", directory, arguments), Isas()


def pytest_files(directory, *names):
    """By name, since to collect ONNX's own cases takes longer than these tests."""
    return [f"{directory}/test_{name}.py" for name in names]


def emulated_pytest(interpreter, name, directory, arguments):
    """By the Python package of such a build, on each emulated instruction set."""
    package = directory / "package"
    run(["meson", "install", "-C", directory, "--no-rebuild", "--tags=python-runtime", f"--destdir={package}"], name)
    results = []
    for isa in sorted(EMULATED):
        env = QUICK | {"PYTHONPATH": str(package / "python"), "MHA_ISA": isa}
        chosen = run([interpreter, "-c", "import mha; print(mha.__file__, mha.cpu_info()['isa'])"], name, env)
        runs_it = chosen.startswith(str(package)) and chosen.endswith(f" {isa}\n")
        results.append(check(f"{name}: Python runs {isa}", runs_it, chosen))
        results += pytest(interpreter, f"{name}-{isa}", *arguments, env=env)
    return results


def address(quick):
    """address and undefined-behaviour sanitizers, the short list of cases"""
    directory, built = compile_only("address", [*SANITIZED, "-Db_sanitize=address,undefined"])
    results, isas = run_tests(directory, "address", ["--timeout-multiplier=4"], QUICK)
    return [built, *results], isas


def thread(quick):
    """thread sanitizer, on the tests that share work among threads"""
    directory, built = compile_only("thread", [*SANITIZED, "-Db_sanitize=thread"])
    results, isas = run_tests(directory, "thread", ["--suite=threads", "--timeout-multiplier=4"], QUICK)
    return [built, *results], isas


def compile_arm():
    return compile_only("aarch64", [TESTS, f"--cross-file={ROOT}/cross/aarch64-linux-gnu.ini"], {})


def emulate_arm(cpu, name, env):
    directory, built = compile_arm()
    arguments = ["--suite=quick", "--timeout-multiplier=4"]
    results, isas = run_tests(directory, name, arguments, QUICK | {"QEMU_CPU": cpu} | env)
    return [built, *results], isas


def aarch64(quick):
    """aarch64 in qemu-user as cortex-a57, plain NEON; the short list of cases"""
    results, isas = emulate_arm("cortex-a57", "aarch64", {})
    archive = BUILD / "aarch64" / "src" / "libmha.a"
    return results + objects.sleef_results(archive, "aarch64", "aarch64-linux-gnu-nm"), isas


def aarch64_max(quick):
    """aarch64 in qemu-user with all that qemu has, for what multiplies bf16; the short list of cases"""
    results, isas = emulate_arm("max", "aarch64-max", {"MHA_TEST_ISA": "neonbf16"})
    return [*results, check("aarch64-max: neonbf16 is exercised", "neonbf16" in isas.exercised)], isas


# x86-64-v1 and nothing more.
OLD_X86 = {"QEMU_CPU": "qemu64,-sse3"}


def refuses(flag, code):
    """The emulated old CPU traps what the baseline lacks; otherwise passing there would mean nothing."""
    directory = BUILD / "x86-64-v1"
    directory.mkdir(exist_ok=True)
    source, program = directory / f"{flag[2:]}.c", directory / flag[2:]
    source.write_text(f"#include <immintrin.h>\nint main(int n, char **v) {{ (void)v; {code} }}\n")
    run(["gcc", flag, "-O1", source, "-o", program], "x86-64-v1")
    status, _ = try_run(["qemu-x86_64", program], "x86-64-v1", OLD_X86)
    return check(f"x86-64-v1: the emulated CPU traps {flag[2:]} code", status == -4, f"exit status {status}")


def x86_64_v1(quick):
    """x86-64-v1 in qemu-user; the short list of cases"""
    directory, built = compile_only("gcc", ALL)
    traps = [
        refuses("-mavx", "__m256 x = _mm256_set1_ps(n); return _mm256_movemask_ps(x);"),
        refuses("-msse3", "__m128 x = _mm_set1_ps(n); return _mm_movemask_ps(_mm_hadd_ps(x, x));"),
    ]
    arguments = ["--suite=quick", "--wrapper=qemu-x86_64", "--timeout-multiplier=4"]
    results, isas = run_tests(directory, "x86-64-v1", arguments, QUICK | OLD_X86)
    return [*traps, *results], isas


def compiled(quick):
    """what the objects hold: instructions, SLEEF's names, exported names"""
    directory, built = compile_only("gcc", ALL)
    results = []
    if IS_X86:
        hostile = {"CFLAGS": "-march=native -mavx2 -ffast-math -flto"}
        raised, _ = compile_only("objects", ["-Db_lto=true", "-Ddefault_library=static"], GCC | hostile)
        results += objects.baseline_results(directory, "objects")
        results += objects.baseline_results(raised, "objects, built with CFLAGS=-march=native and more")
    results += objects.sleef_results(directory / "src" / "libmha.a", "objects")
    results += objects.export_results(directory / "src" / "libmha.so", ROOT / "include" / "mha" / "mha.h", "objects")
    return results, Isas()


def headers(quick):
    """public headers alone, as C11 and C++17, with gcc and clang"""
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-fsyntax-only"]
    languages = {"gcc": "c11", "g++": "c++17", "clang-19": "c11", "clang++-19": "c++17"}
    cases = [("mha.h", []), ("threads.h", []), ("threads.h", ["-DMHA_WITH_PTHREADPOOL"])]
    results = []
    for compiler, standard in languages.items():
        language = standard.rstrip("0123456789")
        # clang has no omp.h of its own.
        with_openmp = [("threads.h", ["-fopenmp"])] if compiler in ("gcc", "g++") else []
        for header, options in cases + with_openmp:
            command = [compiler, f"-std={standard}", *warnings, *options, f"-I{ROOT}/include", "-x", language]
            status, output = try_run([*command, "-include", f"mha/{header}", "/dev/null"], "headers")
            results.append(check(f"headers: {header} {' '.join([compiler, *options])}", status == 0, output))
    return results, Isas()


def installed(quick):
    """separate Meson and CMake projects that use the library"""
    return consumers.results(), Isas()


def wheels(quick):
    """a wheel: what it contains, and that it works in a clean environment"""
    return wheel.results(), Isas()


def pytest(interpreter, name, *arguments, env=None):
    log = LOGS / f"{name}.xml"
    log.unlink(missing_ok=True)
    command = [interpreter, "-m", "pytest", "-q", "--tb=short", f"--junitxml={log}", *arguments]
    status, output = try_run(command, name, env)
    results = of_pytest(log) if log.exists() else []
    if not results or (status != 0 and not any(result.outcome == FAILED for result in results)):
        raise Broken(f"pytest: exit status {status}", output)
    return results


def python(quick):
    """the Python package, installed from this tree"""
    run([ROOT / "scripts" / "install-python"], "python")
    results = pytest("python", "python")
    status, output = try_run(["python", "-c", readme_example("python")], "python")
    results.append(check("python: README's example runs", status == 0, output))
    return results, Isas()


# The environment with PyTorch, Transformers and ONNX.
FRAMEWORKS = ".venv-all"


def python_of_frameworks(log):
    run([ROOT / "scripts" / "setup", "all"], log)
    return ROOT / FRAMEWORKS / "bin" / "python"


def frameworks(quick):
    """the Python package with PyTorch, Transformers and ONNX, in .venv-all"""
    interpreter = python_of_frameworks("frameworks")
    run([ROOT / "scripts" / "install-python", FRAMEWORKS], "frameworks")
    return pytest(interpreter, "frameworks", "python/tests/frameworks"), Isas()


def onnx(quick):
    """ONNX's own cases of its operator Attention in C, on every instruction set and emulated CPU"""
    cases = BUILD / "onnx-cases.bin"
    run([python_of_frameworks("onnx"), ROOT / "scripts" / "onnx_cases", cases], "onnx")
    env = {"MHA_ONNX_CASES": str(cases)}
    native, built = compile_only("gcc", ALL)
    runs = [(native, "onnx", [], {})]
    results, isas = [built], Isas()
    if IS_X86:
        arm, built = compile_arm()
        results.append(built)
        runs.append((native, "onnx-x86-64-v1", ["--wrapper=qemu-x86_64"], OLD_X86))
        runs.append((arm, "onnx-aarch64", [], {"QEMU_CPU": "cortex-a57"}))
    for directory, name, arguments, cpu in runs:
        of_run, isas_of_run = run_tests(directory, name, ["--suite=onnx", *arguments], env | cpu)
        results += [Result(f"{name}: {result.name}", result.outcome, result.detail) for result in of_run]
        isas.add(isas_of_run)
    return results, isas


def formatting(quick):
    """clang-format on each C and C++ file; every planted fault's text occurs once"""
    listed = run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "*.c", "*.cc", "*.cpp", "*.h"], "format")
    files = listed.splitlines()
    different = [file for file in files if try_run(["clang-format-19", "--dry-run", "-Werror", file], "format")[0] != 0]
    status, stale = try_run([ROOT / "scripts" / "mutate", "--check"], "format")
    results = [
        check("format: clang-format has nothing to change", files and not different, "\n".join(different)),
        check("format: the text of every planted fault occurs once in its file", status == 0, stale),
    ]
    return results, Isas()


def documentation(quick):
    """Doxygen: every public name is documented, every link between pages leads somewhere"""
    (BUILD / "docs").mkdir(parents=True, exist_ok=True)
    status, output = try_run(["doxygen", "docs/Doxyfile"], "docs")
    return [check("docs: Doxygen warns of nothing", status == 0, output)], Isas()


def only_on_x86(name, stage):
    def skip(quick):
        return [Result(f"{name}: needs an x86-64 machine", SKIPPED)], Isas()

    skip.__doc__ = stage.__doc__
    return stage if IS_X86 else skip


STAGES = {
    "gcc": gcc,
    "objects": compiled,
    "headers": headers,
    "format": formatting,
    "docs": documentation,
    "python": python,
    "wheel": wheels,
    "consumers": installed,
    "clang": clang,
    "emulated": only_on_x86("emulated", emulated),
    "address": address,
    "thread": thread,
    "x86-64-v1": only_on_x86("x86-64-v1", x86_64_v1),
    "aarch64": only_on_x86("aarch64", aarch64),
    "aarch64-max": only_on_x86("aarch64-max", aarch64_max),
    "frameworks": frameworks,
    "emulated-frameworks": only_on_x86("emulated-frameworks", emulated_frameworks),
    "onnx": onnx,
}
LIGHT_STAGES = [name for name in STAGES if name not in ("frameworks", "emulated-frameworks", "onnx")]
QUICK_STAGES = ["gcc", "objects", "headers", "format", "docs", "python"]
