"""What is known of pyiqa's networks before one is built: files, sizes, gradients. Facts of pyiqa 0.1.16, measured.

The tests hold every line that can be built without a download against the real package; what is not in the table is
found out by trying (`probe`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traits:
    """One network.

    Attributes:
        module: name of its file among pyiqa's, without `_arch`.
        needs: what it loads, as `kind:name` (the kinds are in `needs`); `{option}` stands for the value of an option.
        min_size: smallest side in pixels; 0 where it was not measured, and is found by trying when it is built.
            Those that resize what they get, as language models do, take any side that a photograph has.
        multiple: height and width have to be multiples of this.
        alone: whether it takes one image at a time.
        gradient: whether the score has a gradient that is not zero everywhere.
        clamp: whether it fails on values outside [0,1], which smoothing defences hand to a metric.
        weights: how a user's file gets in: "state", a state dict that has to fit exactly; "mat" and "pickle", a Matlab
            file or tensors that pyiqa reads itself; or "", not at all.
        bare: options with which it is built before a state dict is filled in.
        note: a sentence that a user should read before trusting an attack on it.
        never: why it does not work here whatever files there are.
    """

    module: str
    needs: tuple[str, ...] = ()
    min_size: int = 0
    multiple: int = 1
    alone: bool = False
    gradient: bool = True
    clamp: bool = False
    weights: Literal["state", "mat", "pickle", ""] = ""
    bare: tuple[tuple[str, object], ...] = ()
    note: str = ""
    never: str = ""


UNKNOWN = Traits("")
_UNTRAINED = (("pretrained", False),)
_ROUNDS = "rounds the luma to grey levels, with the gradient of no rounding: tiny budgets move nothing"
_LANGUAGE_MODEL = "a language model of several gigabytes; scores are read from it without a gradient"

_TABLE: dict[str, Traits] = {
    "PIQE": Traits("piqe", min_size=16, gradient=False, note="counts blocks of the rounded image: the gradient is 0"),
    "Entropy": Traits("entropy", min_size=16, gradient=False, clamp=True,
                      note="the entropy of a histogram has no gradient"),
    "NIQE": Traits("niqe", ("own:niqe_{version}",), 96, weights="mat",
                   note=f"{_ROUNDS}; crops to multiples of 96 pixels"),
    "ILNIQE": Traits("niqe", ("own:ilniqe",), 16, weights="mat", note="resizes to 524x524; takes minutes an image"),
    "BRISQUE": Traits("brisque", ("own:brisque_{version}",), 16, weights="pickle", note=_ROUNDS),
    "NRQM": Traits("nrqm", ("own:url",), gradient=False, weights="mat",
                   note="its random forests have no gradient"),
    "PI": Traits("nrqm", ("own:url", "niqe:url"), note="only its NIQE half has a gradient, not the NRQM half"),
    "CNNIQA": Traits("cnniqa", ("own:{pretrained}",), 16, weights="state",
                     note="max and min pooling: most pixels have no gradient"),
    "MUSIQ": Traits("musiq", ("own:{pretrained}",), 16, weights="state"),
    "NIMA": Traits("nima", ("own:{base_model_name}-{train_dataset}", "timm:{base_model_name}"), 16, weights="state",
                   note="resizes and crops the centre"),
    "PAQ2PIQ": Traits("paq2piq", ("own:url", "torchvision:ResNet18_Weights.IMAGENET1K_V1"), weights="state"),
    "DBCNN": Traits("dbcnn", ("own:{pretrained}", "own:scnn", "torchvision:VGG16_Weights.IMAGENET1K_V1"), 16,
                    weights="state"),
    "MANIQA": Traits("maniqa", ("own:{train_dataset}", "timm:vit_base_patch8_224"), 16, weights="state",
                     note="enlarges small images; options=test_sample=N sets the number of crops, 20"),
    "CLIPIQA": Traits("clipiqa", ("own:{model_type}", "clip:{backbone}"), 32, weights="state", bare=_UNTRAINED),
    "FGResQ": Traits("fgresq", ("own:fgresq", "own:degradation", "hf:{clip_model}"), weights="state", bare=_UNTRAINED),
    "TReS": Traits("tres", ("own:{train_dataset}", "torchvision:ResNet50_Weights.IMAGENET1K_V1"), 16, weights="state",
                   note="enlarges small images; options=test_sample=N sets the number of crops, 50"),
    "HyperNet": Traits("hypernet", ("own:resnet50-koniq", "timm:{base_model_name}"), 16, weights="state",
                       note="enlarges small images; options=num_crop=N sets the number of crops, 25"),
    "MetaIQA": Traits("metaiqa", ("own:meta-infer-ready",), 16, weights="state", bare=_UNTRAINED,
                      note="resizes to 224x224"),
    "URanker": Traits("uranker", ("own:uranker",), 16, weights="state", note="its histogram branch has no gradient"),
    "CFANet": Traits("topiq", ("own:{model_name}", "features:{semantic_model_name}", "face:{model_name}"), 16,
                     weights="state"),
    "CFANet of faces": Traits("topiq", ("own:{model_name}", "features:{semantic_model_name}", "face:{model_name}"),
                              64, alone=True, gradient=False,
                              note="cuts out and aligns a face; images without one are errors, and nothing has a "
                              "gradient"),
    "LAIONAes": Traits("laion_aes", ("own:url", "home-clip:ViT-L/14"), weights="state"),
    "LIQE": Traits("liqe", ("own:{pretrained}", "clip:{backbone}"), 224, weights="state"),
    "WaDIQaM": Traits("wadiqam", ("own:{model_name}",), 33, weights="state",
                      note="the last row and column of patches are not looked at"),
    "QAlign": Traits("qalign", ("hf:q-future/one-align",), 16, alone=True, gradient=False, note=_LANGUAGE_MODEL),
    "QReAlign": Traits("qrealign", ("model:{model}",), 32, alone=True, gradient=False, note=_LANGUAGE_MODEL),
    "Compare2Score": Traits("compare2score", ("hf:q-future/Compare2Score",), 16, alone=True, gradient=False,
                            note=_LANGUAGE_MODEL),
    "UNIQUE": Traits("unique", ("own:mix", "torchvision:ResNet34_Weights.IMAGENET1K_V1"), 16, weights="state"),
    "ARNIQA": Traits("arniqa", ("hub:ARNIQA", "own:{regressor_dataset}", "torchvision:ResNet50_Weights.IMAGENET1K_V1"),
                     16),
    "MACLIP": Traits("maclip", ("clip:{backbone}",), 224, alone=True, never="pyiqa's code of it needs a CUDA device"),
    "QualiCLIP": Traits("qualiclip", ("also:qualiclip", "own:{model_type}", "clip:{backbone}"), 32, weights="state"),
    "AFINE": Traits("afine", ("own:afine", "home-clip:{clip_backbone}"), 32, 32, alone=True, gradient=False,
                    weights="pickle", note="pyiqa computes it without a gradient"),
}  # fmt: skip


def traits_of(type_name: str, model_name: str = "") -> Traits:
    """What is known of a class of network, by the name of the class and, of TOPIQ, that of the model."""
    return _TABLE.get(f"{type_name} of faces" if "gfiqa" in model_name else type_name, UNKNOWN)
