"""What ``fwdonly reproduce --claim ID`` does: one claim's command, in a folder that the same command continues."""

import dataclasses
import shlex
import sys
from pathlib import Path

from .. import claims
from ..errors import UsageError
from ..study import Study
from . import again, compare, train


def study_of(
    claim: claims.Claim, seeds: int, first_seed: int, data_dir: Path | None, folder: Path, *, quick: bool = False
) -> Study:
    """The study of a claim.

    Raises:
        UsageError: it is not run by a command of ``fwdonly``.
    """
    if not claim.command:
        raise UsageError(f"{claim.id} is run by another command: {claim.how}")
    command, *words = shlex.split(claim.command)
    words += ["--seeds", str(seeds), "--first-seed", str(first_seed), "--output-dir", str(folder)]
    words += ["--data-dir", str(data_dir)] if data_dir is not None else []
    study = {"train": train, "compare": compare}[command].study_of(words, ("fwdonly", command, *words))
    return again.quick(study) if quick else study


def run_claim(
    claim: claims.Claim,
    *,
    seeds: int,
    first_seed: int,
    quick: bool,
    data_dir: Path | None,
    folder: Path,
    show: bool,
) -> int:
    """Run a claim, or what is left of it, and print what its runs say by themselves; the exit code."""
    study = study_of(claim, seeds, first_seed, data_dir, folder, quick=quick)
    print(f"{claim.id}: {claim.sentence}\n  {shlex.join(study.command_line)}", flush=True)
    if show:
        return 0
    if other := again.foreign(study, folder):
        raise UsageError(f"{folder} holds another run ({other}); give another --output-dir")
    why = again.run_row(study, folder)
    if why == "interrupted":
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    if why is not None:
        return 2
    if quick:
        print("the quick form shows nothing but that it runs")
        return 0
    verdict = of_folder(claim, folder)
    print(f"these runs alone: {verdict.text}\n{claims.sentence(verdict)}")
    print(f"to commit them: fwdonly claims --take {folder} --name NAME, and name the file in the claim's record")
    return 0


def of_folder(claim: claims.Claim, folder: Path) -> claims.Verdict:
    """The verdict of a result folder by itself, as a family of one."""
    path = (str((folder / "summary.json").resolve()),)
    sides = [side and claims.Side(side.rule, path) for side in (claim.ours, claim.theirs)]
    alone = dataclasses.replace(claim, ours=sides[0] or claim.ours, theirs=sides[1])
    return claims.judge(Path(), [alone])[claim.id]
