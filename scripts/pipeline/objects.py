"""What the compiled library holds: instructions, symbols it needs, names it exports."""

import re

from pipeline.build import run
from pipeline.results import check

LOG = "objects"
OBJDUMP_LINE = re.compile(r"^ *[0-9a-f]+:\t((?:[0-9a-f]{2} )+)")
FUNCTION_LINE = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LEGACY_PREFIXES = {"26", "2e", "36", "3e", "64", "65", "66", "67", "f2", "f3"}
# In 64-bit mode these bytes begin nothing else.
VECTOR_PREFIXES = {"c4": "VEX", "c5": "VEX", "62": "EVEX"}
# One function per instruction set: a SLEEF name that ends after its error bound probes the CPU with a SIGILL handler.
SLEEF_WITH_ISA = re.compile(r"^Sleef_[a-z]+\d*_u\d+[a-z]\w*$")


def encoding(opcode_bytes):
    """VEX or EVEX, or None for an instruction of the x86-64 baseline's encodings."""
    for byte in opcode_bytes:
        if byte in VECTOR_PREFIXES:
            return VECTOR_PREFIXES[byte]
        if byte not in LEGACY_PREFIXES:
            return None
    return None


def vector_functions(objects):
    """Functions with VEX or EVEX instructions, as 'object: function'."""
    found = []
    for file in objects:
        function = None
        for line in run(["objdump", "--disassemble", "--wide", file], LOG).splitlines():
            if match := FUNCTION_LINE.match(line):
                function = f"{file.name}: {match[1]}"
            elif (match := OBJDUMP_LINE.match(line)) and encoding(match[1].split()) and function not in found:
                found.append(function)
    return found


def objects_of(directory, library):
    return sorted((directory / "src" / f"{library}.a.p").glob("*.o"))


def baseline_results(directory, name):
    """Objects that every CPU runs hold no VEX or EVEX code; and to show that the search finds any, AVX2's do."""
    baseline = objects_of(directory, "libmha") + objects_of(directory, "libmha_scalar")
    avx2 = objects_of(directory, "libmha_avx2")
    offenders = vector_functions(baseline)
    return [
        check(f"{name}: the search for VEX code finds AVX2's", bool(vector_functions(avx2))),
        check(f"{name}: baseline free of VEX and EVEX code", len(baseline) > 2 and not offenders, "\n".join(offenders)),
    ]


def sleef_results(archive, name, nm="nm"):
    """Only SLEEF functions that are compiled for one instruction set."""
    needed = set(re.findall(r"\bU (Sleef_\w+)", run([nm, archive], LOG)))
    probing = sorted(function for function in needed if not SLEEF_WITH_ISA.match(function))
    return [check(f"{name}: SLEEF functions carry their instruction set", needed and not probing, "\n".join(probing))]


def export_results(library, header, name):
    """The shared library exports what the public header declares: mha_ names and no other."""
    declarations = re.findall(r"^MHA_API ([^;]*);", header.read_text(), re.MULTILINE)
    declared = {re.search(r"(\w+)\(", declaration)[1] for declaration in declarations}
    symbols = run(["nm", "--dynamic", "--defined-only", "--format=posix", library], LOG)
    exported = {line.split()[0] for line in symbols.splitlines()}
    foreign = sorted(symbol for symbol in exported if not symbol.startswith("mha_"))
    differing = sorted(declared ^ exported)
    soname = re.search(r"SONAME.*\[(.*)\]", run(["readelf", "--dynamic", "--wide", library], LOG))
    return [
        check(f"{name}: the soname is libmha.so.0", soname and soname[1] == "libmha.so.0", str(soname)),
        check(f"{name}: exported names begin with mha_", exported and not foreign, "\n".join(foreign)),
        check(f"{name}: what mha.h declares is exported, and no more", not differing, "\n".join(differing)),
    ]
