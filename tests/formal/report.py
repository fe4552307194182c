# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.formal.report [NAME...]`: every proof with its depth and seconds, its covers and its mutants, as a
Markdown table.
"""

import sys

from .runner import prove
from .test_formal import PROOFS


def main(names: list[str]) -> None:
    print("| proof | cycles | proven | covers | mutants caught |\n|---|---|---|---|---|")
    for proof in PROOFS:
        if names and not any(name in proof.name for name in names):
            continue
        held, reached = prove(proof), prove(proof, cover=True)
        caught = {name: prove(proof, name) for name in proof.mutants}
        depth = "unbounded" if proof.induction else proof.depth
        missed = [f"{name}: {v.status}" for name, v in caught.items() if not v.asserted]
        print(
            f"| {proof.name}{' (full)' if proof.full else ''} | {depth} | {held.status} {held.seconds} s "
            f"{' '.join(held.places)} "
            f"| {reached.status} {reached.log.count('Reached cover')} {reached.seconds} s {' '.join(reached.places)} "
            f"| {sum(v.asserted for v in caught.values())} of {len(caught)} {'; '.join(missed)} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
