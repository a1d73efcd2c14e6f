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
    claim: claims.Claim,
    seeds: int,
    first_seed: int,
    data_dir: Path | None,
    folder: Path,
    *,
    quick: bool = False,
    tuned: Path | None = None,
) -> Study:
    """The study of a claim.

    Raises:
        UsageError: it is not run by a command of ``fwdonly``, or ``tuned`` does not hold its searches.
    """
    if not claim.command:
        raise UsageError(f"{claim.id} is run by another command: {claim.how}")
    check_searches(claim, tuned)
    command, *words = shlex.split(claim.command)
    if tuned is not None:
        words = [
            str(tuned / word.removeprefix(claims.TUNED)) if word.startswith(claims.TUNED) else word for word in words
        ]
    words += ["--seeds", str(seeds), "--first-seed", str(first_seed), "--output-dir", str(folder)]
    words += ["--data-dir", str(data_dir)] if data_dir is not None else []
    study = {"train": train, "compare": compare}[command].study_of(words, ("fwdonly", command, *words))
    return again.quick(study) if quick else study


def check_searches(claim: claims.Claim, tuned: Path | None) -> None:
    """Check that a folder holds the searches of a claim, one for each of its rules.

    Raises:
        UsageError: there is no folder and the claim needs one, or the other way round; or it lacks a rule's search.
    """
    if not claim.searches:
        if tuned is not None:
            raise UsageError(f"{claim.id} takes no settings of searches; leave --tuned out")
        return
    if tuned is None:
        wanted = " and ".join(claim.searches)
        raise UsageError(f"{claim.id} takes settings of searches: give --tuned DIR, the folder that holds {wanted}")
    for name in claim.searches:
        rule, folder = name.rpartition("-")[2], tuned / name
        if not (folder / "best.json").is_file():
            words = ["fwdonly", "tune", rule, "--dataset", claim.dataset, "--net", claim.network]
            words += ["--monitor", "accuracy", "--keep", "best_accuracy", "--output-dir", str(folder)]
            raise UsageError(f"{tuned} has no search of {rule}; {shlex.join(words)} makes it")
        compare.tuned_settings([folder], [rule])


def run_claim(
    claim: claims.Claim,
    study: Study,
    folder: Path,
    *,
    quick: bool,
    show: bool,
) -> int:
    """Run a claim's study, or what is left of it, and print what its runs say by themselves; the exit code."""
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
