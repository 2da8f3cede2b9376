"""Whether the two latents are apart, in a few plain sentences."""

from vidtwin.analysis.dependence import Dependence
from vidtwin.analysis.rates import Rates
from vidtwin.analysis.spectra import Spectra
from vidtwin.analysis.swaps import Kept, Swaps

RECOVERED, FOUND = 0.8, 0.9  # R^2 and retrieval after a swap, from which a latent counts as recovered
PREDICTED = 0.2  # R^2 of one latent from the other, from which it counts as predicted
SAVED = 0.5  # share of Dynamics' bits above their floor that a frozen clip saves, if Dynamics is of motion


def verdict(spectra: Spectra, swaps: Swaps, dependence: Dependence, rates: Rates) -> str:
    """What each latent explains, what a swap keeps, what one says of the other, and then: apart, or why not."""
    explains = [f"{name.capitalize()} explains {_explained(spectra, name)}" for name in ("structure", "dynamics")]
    kept = [_recovered("Structure", swaps.structure), _recovered("Dynamics", swaps.dynamics)]
    sentences = [
        f"{', '.join(explains)}, both together {_explained(spectra, 'both', short=True)}.",
        f"After a swap {' and '.join(kept)}.",
    ]
    if dependence.r2_dynamics is not None and dependence.r2_structure is not None:
        sentences.append(
            f"A linear map predicts {_percent(dependence.r2_dynamics)} of Dynamics from Structure and "
            f"{_percent(dependence.r2_structure)} of Structure from Dynamics."
        )
    if rates.saved is not None:
        sentences.append(f"A clip that is frozen saves {_percent(rates.saved)} of Dynamics' bits.")
    reasons = _reasons(swaps, dependence, rates)
    sentences.append(f"The latents are not apart: {'; '.join(reasons)}." if reasons else "The latents are apart by these measures.")
    return " ".join(sentences)


def _reasons(swaps: Swaps, dependence: Dependence, rates: Rates) -> list[str]:
    """Why the latents are not apart."""
    checks = {
        "Structure is not recovered from a swap": _is_recovered(swaps.structure),
        "Dynamics is not recovered from a swap": _is_recovered(swaps.dynamics),
        "Dynamics can be predicted from Structure": _below(dependence.r2_dynamics, PREDICTED),
        "Structure can be predicted from Dynamics": _below(dependence.r2_structure, PREDICTED),
        "Dynamics costs bits where nothing moves": rates.saved is not None and rates.saved >= SAVED,
    }
    return [reason for reason, passed in checks.items() if not passed]


def _explained(spectra: Spectra, name: str, short: bool = False) -> str:
    still, moving = _percent(spectra.shares[name][0]), _percent(spectra.moving[name])
    return f"{still} and {moving}" if short else f"{still} of the time-averaged image and {moving} of what moves"


def _recovered(name: str, kept: Kept) -> str:
    if kept.own is None or kept.retrieved is None:
        return f"{name} has nothing to recover"
    how = "is recovered" if _is_recovered(kept) else "is not recovered"
    return f"{name} {how} (R^2 {kept.own:.2f}, {_percent(kept.retrieved)} retrieval)"


def _is_recovered(kept: Kept) -> bool:
    return kept.own is not None and kept.retrieved is not None and kept.own >= RECOVERED and kept.retrieved >= FOUND


def _below(value: float | None, limit: float) -> bool:
    return value is None or value < limit


def _percent(share: float | None) -> str:
    return "nothing measurable" if share is None else f"{100 * max(share, 0.0):.0f} %"
