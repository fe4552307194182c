# SPDX-License-Identifier: Apache-2.0
"""The testplan and the suite held against each other, in both directions.

`python -m tests.test_testplan` writes tests/README.md anew.
"""

import ast
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # what pytest itself uses there

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
STAGES = {
    "V1": "it works at all",
    "V2": "every feature, every stall, every error",
    "V3": "random stimulus, proofs, coverage, soak",
}
README = TESTS / "README.md"


def points() -> list[dict]:
    return tomllib.loads((TESTS / "testplan.toml").read_text())["point"]


def suite() -> dict[str, set[str]]:
    """File -> names of its test functions, also those in classes."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        names = {
            n.name
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, functions) and n.name.startswith("test_")
        }
        found[path.relative_to(ROOT).as_posix()] = names
    return found


def to_markdown() -> str:
    """The section of the README that comes from the plan."""
    lines = ["| promise | stage | held by |", "|---|---|---|"]
    for point in points():
        tests = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in point["tests"])
        units = f" ({', '.join(point['units'])})" if point.get("units") else ""
        lines.append(f"| **{point['name']}**{units}: {point['promise']} | {point['stage']} | {tests} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    return f"""# Tests

`./edgemoe test` runs everything but the long tests, `./edgemoe test --full` all of it. \
The plan is data, [testplan.toml](testplan.toml):
each promise, its stage, and the tests that hold it; \
`test_testplan.py` fails when a test is in no point of the plan, when the plan names a
test that is not there, or when a unit of the hardware is in no point.

Stages: {"; ".join(f"{stage}: {meaning}" for stage, meaning in STAGES.items())}.

{to_markdown()}"""


def test_every_named_test_exists():
    there = suite()
    for point in points():
        for name in point["tests"]:
            file, _, function = name.partition("::")
            assert file in there, f"point {point['name']}: there is no {file}"
            assert not function or function in there[file], f"point {point['name']}: {file} has no test {function}"


def test_every_test_is_in_the_plan():
    named = {name for point in points() for name in point["tests"]}
    forgotten = [
        f"{file}::{f}"
        for file, functions in suite().items()
        for f in sorted(functions)
        if not {file, f"{file}::{f}"} & named
    ]
    assert not forgotten, f"in no point of tests/testplan.toml: {', '.join(forgotten)}"


def test_every_unit_is_in_the_plan():
    rooms = ("memory", "compute", "control", "periphery")
    units = {path.stem for room in rooms for path in (ROOT / "hw" / room).glob("*.py")} - {"__init__"}
    planned = {unit for point in points() for unit in point.get("units", ())}
    assert units == planned, f"not in the plan: {sorted(units - planned)}; no such units: {sorted(planned - units)}"


def test_points_are_complete():
    names = [point["name"] for point in points()]
    assert len(set(names)) == len(names)
    for point in points():
        assert set(point) <= {"name", "stage", "units", "promise", "tests"} and point["promise"] and point["tests"]
        assert point["stage"] in STAGES
    assert {point["stage"] for point in points()} == set(STAGES)


def test_the_readme_is_made_from_the_plan():
    assert README.read_text() == readme(), "write it anew: python -m tests.test_testplan"


if __name__ == "__main__":
    README.write_text(readme())
