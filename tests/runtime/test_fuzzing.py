"""Whatever the files and callers are, the runtime gives a right result or says no in one line.

A run of this file gives each target a few hundred inputs, the same ones every time. The long run takes ten minutes for
the three together, or as many seconds as MASK2EDGE_FUZZ_SECONDS says, with inputs that follow from MASK2EDGE_FUZZ_SEED
(default 0), and prints how many each target saw:

    MASK2EDGE_FUZZ_SECONDS=600 python -m pytest -m slow -s tests/runtime/test_fuzzing.py

What failed is in artifacts/fuzzing; tests/fuzz_targets.py says how to see it again.
"""

import os
import pickle
import time

import pytest
from fuzz_inputs import engine_cases, image_cases, request_cases
from fuzz_targets import Fuzzed
from hypothesis import HealthCheck, Phase, given, seed, settings

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")

CASES = {"images": lambda _: image_cases(), "engines": engine_cases, "requests": lambda _: request_cases()}
QUICK = {"images": 150, "engines": 40, "requests": 40}  # inputs: seconds of each target
ROUND = 1000  # inputs that one seed of the long run makes
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("name", CASES)
def test_odd_input_has_a_result_or_one_line(make_engine, name):
    engine = make_engine()
    with Fuzzed(name, engine) as target:

        @settings(max_examples=QUICK[name], derandomize=True, **QUIET)
        @given(CASES[name](engine))
        def fuzz(case):
            target.check(case)

        fuzz()
        assert target.seen >= QUICK[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ten_minutes_of_odd_input(make_engine, name):
    seconds = float(os.environ.get("MASK2EDGE_FUZZ_SECONDS", 600)) / len(CASES)
    first = 1000 * int(os.environ.get("MASK2EDGE_FUZZ_SEED", 0))
    engine = make_engine()
    with Fuzzed(name, engine) as target:
        end, rounds = time.monotonic() + seconds, 0

        def fuzz(case):
            if time.monotonic() < end:
                target.check(case)

        while time.monotonic() < end:
            inputs = settings(max_examples=ROUND, phases=(Phase.generate, Phase.shrink), **QUIET)(
                given(CASES[name](engine))(fuzz)
            )
            seed(first + rounds)(inputs)()
            rounds += 1
        print(f"{name}: {target.seen} inputs in {seconds:.0f} s, seeds {first} to {first + rounds - 1}")
        assert target.seen > 0


def test_every_kind_of_failure_is_seen_and_its_input_kept(tmp_path):
    failures = {
        "raise": "KeyError: 'raise'",
        "print": "a traceback for the user",
        "memory": "bytes of memory for one input",
        "crash": "the process ended with exit code -11.*Fatal Python error",
        "hang": "no reaction within 3 s.*Fatal Python error",
    }
    with Fuzzed("broken", tmp_path / "none", tmp_path / "kept", hang_seconds=3) as target:
        for case, message in failures.items():
            target.check("nothing")
            with pytest.raises(AssertionError, match=f"(?s){message}"):
                target.check(case)
            assert pickle.loads((tmp_path / "kept" / "broken.pickle").read_bytes()) == case
