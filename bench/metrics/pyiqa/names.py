"""The names of pyiqa's metrics of one image: a typing error is told apart from a name where pyiqa is not installed."""

from __future__ import annotations

VERSION = "0.1.16"
"""The version of pyiqa that has these names; another one may have more."""

NAMES = frozenset((
    "afine_nr", "arniqa", "arniqa-clive", "arniqa-csiq", "arniqa-flive", "arniqa-kadid", "arniqa-live",
    "arniqa-spaq", "arniqa-tid", "brisque", "brisque_matlab", "clipiqa", "clipiqa+", "clipiqa+_rn50_512",
    "clipiqa+_vitL14_512", "cnniqa", "compare2score", "dbcnn", "entropy", "fgresq", "hyperiqa", "ilniqe",
    "laion_aes", "liqe", "liqe_mix", "maclip", "maniqa", "maniqa-kadid", "maniqa-pipal", "metaiqa", "musiq",
    "musiq-ava", "musiq-paq2piq", "musiq-spaq", "nima", "nima-koniq", "nima-spaq", "nima-vgg16-ava", "niqe",
    "niqe_matlab", "nrqm", "paq2piq", "pi", "piqe", "qalign", "qalign_4bit", "qalign_8bit", "qrealign",
    "qrealign-lite", "qrealign-mini", "qrealign-pro", "qualiclip", "qualiclip+", "qualiclip+-clive",
    "qualiclip+-flive", "qualiclip+-spaq", "topiq_iaa", "topiq_iaa_res50", "topiq_nr", "topiq_nr-face",
    "topiq_nr-face-v1", "topiq_nr-flive", "topiq_nr-spaq", "topiq_nr_swin-face", "tres", "tres-flive", "unique",
    "uranker", "wadiqam_nr",
))  # fmt: skip
