"""The memory of a training step beside that of backpropagation's leanest form, which is the one to beat."""

from ..results import Summary
from .folder import Folder
from .numbers import label, value_of


def memory_sentences(folder: Folder) -> list[str]:
    """One sentence for every rule that is not an exact form of BP, where both have a memory by the compiler.

    Without a lean form of BP among the rules nothing is claimed: the same step can be had for less.
    """
    settings = folder.config["configuration"].get("rules", {})
    exact = [s for s in folder.rules if _is_exact(s["rule"], settings.get(s["rule"], {})) and value_of(s.get("memory"))]
    if not exact:
        return []
    best = min(exact, key=lambda summary: value_of(summary.get("memory")) or 0.0)
    lean = any(_is_lean(settings.get(summary["rule"], {})) for summary in exact)
    doubt = "" if lean else "; no claim: BP takes the same step in less by --remat or --chunks (bp-remat, bp-chunks)"
    kind = "the leanest form of BP here" if len(exact) > 1 else "the only form of BP here"
    rival = f"{label(best)}, {kind}, {_megabytes(best)} MB{doubt}"
    return [
        f"memory: {label(summary)} takes {_megabytes(summary)} MB a step, {rival}."
        for summary in folder.rules
        if summary not in exact and value_of(summary.get("memory"))
    ]


def _is_exact(rule: str, settings: dict) -> bool:
    """Whether a rule descends BP's gradient of the output's loss in all layers."""
    forms = {"readouts": "output", "hidden": "trained"}
    return rule.split("-")[0] == "bp" and all(settings.get(name, usual) == usual for name, usual in forms.items())


def _is_lean(settings: dict) -> bool:
    return settings.get("remat", "none") != "none" or settings.get("chunks", 1) != 1


def _megabytes(summary: Summary) -> str:
    return f"{(value_of(summary.get('memory')) or 0.0) / 1e6:,.1f}"
