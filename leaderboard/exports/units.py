"""What the columns of the tables are: their units, and which hold text."""

from __future__ import annotations

TEXT, FLAG = "text", "true or false"
_R = "R (range of the undefended metric's clean scores)"
_OWN = "R, or the defended range of scores where that is smaller"

_BY_UNIT = {
    TEXT: "metric defense dataset attack norm direction kind coverage truth flags threat range_source plcc_note track "
          "pool reason unit ahead behind across within check raised_if meaning advice not_checked message image "
          "invariant row problem cell",
    FLAG: "standard eligible raised",
    _R: "worst_gain_mean worst_gain_lo worst_gain_hi certified_delta_mean gaming_delta_mean gain_mean gain_lo gain_hi "
        "gain_max gain_8bit_mean above_standard_max width_mean noise_spread_mean empirical_shift_worst_mean "
        "empirical_shift_max naive_gain_mean naive_gain_lo naive_gain_hi adaptive_gain_mean adaptive_gain_lo "
        "adaptive_gain_hi difference_mean below_naive_max",
    _OWN: "worst_gain_own",
    "the defended range of scores": "adaptive_gain_own_mean",
    "scale of the metric": "range certified_delta_raw_mean",
    "units of the ground truth": "rmse_clean",
    "pixel values in [0,1], in the norm of the row": "eps",
    "pixel values in [0,1]": "certified_eps sigma linf_max l2_max",
    "grey levels (of 255)": "rms",
    "dB": "psnr psnr_mean",
    "seconds": "seconds",
    "forwards of the metric": "forwards n",
    "backward passes": "backwards",
    "calls of the deployed score": "queries",
    "images": "n_ok n_planned n_images violations n_naive n_adaptive n_common n_planned_naive n_planned_adaptive",
    "photographs": "n_references",
    "rankings": "n_rankings",
    "entrants": "n_entrants",
    "place": "rank rank_lo rank_hi pool_rank rank_ahead rank_behind",
    "as column `unit` says": "value value_lo value_hi difference",
    "as the difference": "difference_lo difference_hi",
    "log10": "rscore_mean rscore_lo rscore_hi",
    "probability": "alpha p p_holm violation_p",
    "share": "success_share above_standard_share vacuous_share abstained_share certified_pairs below_naive_share",
    "ratio": "range_ratio tightness_mean tightness_max",
    "correlation": "srocc_clean plcc_clean krocc_clean srocc_attacked plcc_attacked plcc_raw_clean plcc5_clean "
                   "krocc_lower srocc_lower kendall_w tau_mean tau_min",
    "similarity (1 = equal)": "ssim_mean",
    "version": "rules",
    "as the check says": "threshold",
}  # fmt: skip
UNITS = {column: unit for unit, columns in _BY_UNIT.items() for column in columns.split()}
"""Column -> unit, `TEXT` or `FLAG`; correlations, shares and the like are plain numbers, named by what they are."""


def unit_of(column: str) -> str:
    """The unit of a column; "" for one that this version does not know."""
    return UNITS.get(column, "")
