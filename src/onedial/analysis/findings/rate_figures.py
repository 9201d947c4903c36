"""The figures that only a table of solve rates has, as JSON values: weights, σ̂ and silence in closed form.

Definitions
    plug_in_silent_share  mean of p̂^G + (1−p̂)^G over the rates as they stand, as published for Big-Math; needs no tries.
                          `expected_silent_share` beside it is free of the bias that few tries give it
    deconvolved_silent_share  E[p^G + (1−p)^G] over the fitted distribution of rates, beyond the tries too; its
                          intervals are what the tries allow
    sigma_moments         E[σ̂^(2−α)] over groups of the training size (`sigma_laws.Moment`)
    extreme_weight        share of the weight of prompts with p ≤ .1 or p ≥ .9 (`sigma_laws.ExtremeShare`)
    by_solve_rate         silence, σ̂ and the weight under every row by tenths of the solve rate (`difficulty_bands`)
    by_iteration          the same means per iteration of a series (`rate_series.SeriesPoint`)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onedial.analysis.findings.difficulty import silent_row
from onedial.analysis.findings.difficulty_bands import rate_bands
from onedial.analysis.findings.expected import GROUP_SIZES, deconvolved_silent_shares, no_visits
from onedial.analysis.findings.finding import plain
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.rate_series import rate_series
from onedial.analysis.findings.sigma_laws import extreme_shares, sigma_moments


def rate_figures(tables: LogTables, withheld: dict[str, str]) -> dict[str, Any]:
    """The figures of a rate table; a figure that needs more tries is null, with the reason in `withheld`."""
    rates = tables.rates.get_column("rate").drop_nulls().to_numpy().astype(np.float64)
    if not len(rates):
        return {}
    sizes = tuple(sorted({*GROUP_SIZES, tables.group_size}))
    fitted = deconvolved_silent_shares(tables, sizes)
    if not fitted:
        withheld["deconvolved_silent_share"] = no_visits(tables)
    figures: dict[str, Any] = {
        "plug_in_silent_share": {str(size): share for size, share in silent_row(rates, sizes).items()},
        "deconvolved_silent_share": {str(size): share.share for size, share in fitted.items()} or None,
        "deconvolved_silent_intervals": {str(size): plain(share.interval) for size, share in fitted.items()},
        "extreme_weight": plain(extreme_shares(tables)),
        "sigma_moments": plain(sigma_moments(tables)) or None,
        "by_solve_rate": plain(rate_bands(tables)),
    }
    if reason := no_visits(tables):
        withheld |= dict.fromkeys(("sigma_moments", "by_solve_rate"), reason)
    if points := rate_series(tables):
        figures["by_iteration"] = plain(points)
    return figures
