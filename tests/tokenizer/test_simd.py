"""Every way in which the scanners make masks of a text splits it as the scalar definition does.

Which one is used is decided once in a process, so each is tried in a process of its own.
"""

import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

PIECES = [
    *"a A z Z aB ABc HTTPServer the The é É ß ſ ǅ ʰ 日 日A 日本 की न 한국 𐐀𐐨 0 9 12 1234 ½ ٣ १२३ 3.14 x1".split(),
    *"' '' 's 'S 'T 'll 'LL 'lL 've 'RE 'ſ ’s x's's X'S'x I'm he'd've 'sx 'é".split(),
    *"! !! . ... = == _ - < ( ) / // @x [ ` { ~ € ← 🐈 👩‍👩‍👧 🇩🇪".split(),
    *(" ", "  ", "   ", "\t", "\v", "\f", "\n", "\r", "\r\n", "\n\n", "\n \n", " \n", "\n  x", "!\n", "!\n/", "\n/"),
    *("\x08", "\x0e", "\x1c", "\x1f", "\x7f", "\x00", "\x85", "\xa0", "\u2003", "\u2028", "\u3000", "\ufeff"),
    *("\u0301", "e\u0301", " \u0301", "!\u0301a", "\n\u0301"),
]
NOT_UTF8 = [b"\x80", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x90", b"\xf4\x90\x80\x80", b"\xff"]

PRINT_DIGESTS = """
import hashlib, json, sys
from groundup.tokenizer import _native
from groundup.tokenizer.patterns import PATTERNS
texts = open(sys.argv[1], "rb").read().split(b"<text>")
digests = {}
for pattern in PATTERNS:
    digest = hashlib.sha256()
    for text in texts:
        for pretoken in _native.pretokens(text, pattern):
            digest.update(b"%d " % len(pretoken))
    digests[pattern] = digest.hexdigest()
print(json.dumps({"name": _native.simd_name(), "digests": digests}))
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short texts of edges, every byte beside every other, and runs that end around the end of a window."""
    rng = random.Random(0)
    pieces = [piece.encode() for piece in PIECES] + NOT_UTF8
    texts = [b"".join(rng.choices(pieces, k=rng.randint(1, 40))) for _ in range(3000)]
    texts += [bytes(rng.randbytes(rng.randint(1, 200))) for _ in range(300)]
    texts += [bytes([first, second]) * 40 for first in range(0x80) for second in range(0x80)]
    for unit in ("a", "A", " ", "0", "!", "\n", "é"):
        for length in range(55, 71):
            texts += [unit.encode() * length + rng.choice(pieces) + rng.choice(pieces) + b" end" for _ in range(8)]
    path = tmp_path_factory.mktemp("simd") / "texts"
    path.write_bytes(b"<text>".join(texts))
    return path


def run_with(simd: str | None, texts: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GROUNDUP_SIMD"}
    if simd is not None:
        environment["GROUNDUP_SIMD"] = simd
    command = [sys.executable, "-c", PRINT_DIGESTS, str(texts)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def result_with(simd: str | None, texts: Path) -> dict[str, object]:
    process = run_with(simd, texts)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def scalar_digests(texts: Path) -> object:
    result = result_with("scalar", texts)
    assert result["name"] == "scalar"
    return result["digests"]


def available() -> list[str]:
    """What this processor has, by the system's word for it; `masks` is arithmetic that all have."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ["masks", "neon"]
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        flags = []
    return ["masks", *(name for name, flag in [("avx2", "avx2"), ("avx512", "avx512bw")] if flag in flags)]


@pytest.mark.parametrize("simd", ["masks", "avx2", "avx512", "neon"])
def test_equals_the_scalar_definition(simd: str, texts: Path, scalar_digests: object):
    if simd not in available():
        pytest.skip(f"this processor has no {simd}")
    assert result_with(simd, texts) == {"name": simd, "digests": scalar_digests}


def test_what_is_chosen_by_itself_is_the_fastest_there_is_and_splits_the_same(texts: Path, scalar_digests: object):
    chosen = result_with(None, texts)
    assert chosen["name"] == {"masks": "scalar"}.get(available()[-1], available()[-1])
    assert chosen["digests"] == scalar_digests


@pytest.mark.parametrize("unknown", ["sse9", "", "AVX2"])
def test_a_name_that_is_not_known_is_an_error_that_says_what_to_give(unknown: str, texts: Path):
    process = run_with(unknown, texts)
    assert process.returncode != 0
    assert (
        f"GROUNDUP_SIMD={unknown} is not known or not what this processor can run; give scalar, or leave it unset"
        in process.stderr
    )


@pytest.mark.long
def test_neon_equals_the_scalar_definition(tmp_path: Path):
    # The fuzz target, built for aarch64: masks of random windows, and scanners with them, whole and in pieces.
    compiler, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
    for program, package in [(compiler, "g++-aarch64-linux-gnu"), (emulator, "qemu-user"), ("make", "make")]:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}; Debian and Ubuntu have it in the package {package}")
    target = tmp_path / "driver" / "fuzz_patterns"
    settings = {"CXX": compiler, "ARCH": "aarch64", "ENGINE": "driver", "SANITIZE": "", "LDFLAGS": "-static"}
    subprocess.run(
        ["make", "-s", "-C", REPOSITORY / "native" / "fuzz", f"BUILD={tmp_path}", target]
        + [f"{name}={value}" for name, value in settings.items()],
        check=True,
    )
    run = subprocess.run(
        [emulator, target, "-runs=100000", "-seed=1"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert "compared with the definition: definition masks neon" in run.stderr
    assert "Done 100000 runs" in run.stderr
