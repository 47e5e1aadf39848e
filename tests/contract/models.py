"""The backbones that the contract is proved on, and those it leaves out, with the reason.

All classification models of torchvision, and one small model of every family (module) of timm.
Sizes are small where the network allows it, so that a check costs seconds; None is its own size.
"""

from __future__ import annotations

TOO_LARGE = "over 200 M parameters: too large for the machine that checks"

EXCEPTIONS = {
    "torchvision/regnet_y_128gf": TOO_LARGE,
    "torchvision/vit_h_14": TOO_LARGE,
    "torchvision/vit_l_16": TOO_LARGE,
    "torchvision/vit_l_32": TOO_LARGE,
    "timm/deepseek_vit_412m": TOO_LARGE,
}
"""Backbones of the lists below that are not checked."""

COLOUR_ONLY = {
    "timm/csatv2": "its stem is a cosine transform of colour pictures",
}
"""Backbones that refuse other than 3 channels, in words."""

NO_ADAPTERS = {
    "timm/nf_resnet26": "its convolutions scale their weights as they run",
}
"""Backbones that refuse the strategy lora, in words."""

TORCHVISION_SIZES: dict[str, int | None] = {
    "inception_v3": 96,
    "maxvit_t": None,  # built for one size
}
TORCHVISION_SIZE = 64

FAMILIES: dict[str, tuple[str, int | None]] = {
    "beit": ("beit_base_patch16_224", 64),
    "byoanet": ("botnet26t_256", None),
    "byobnet": ("gernet_s", 64),
    "cait": ("cait_xxs24_224", 64),
    "coat": ("coat_lite_tiny", 64),
    "convit": ("convit_tiny", 64),
    "convmixer": ("convmixer_768_32", 64),
    "convnext": ("convnext_atto", 64),
    "cpubone": ("cpubone_b0_bfrobust", 64),
    "crossvit": ("crossvit_9_240", None),
    "csatv2": ("csatv2", 128),
    "cspnet": ("cs3darknet_focus_s", 64),
    "cspnext": ("cspnext_tiny", 64),
    "davit": ("davit_tiny", 64),
    "deepseek_vit": ("deepseek_vit_412m", None),
    "deit": ("deit_tiny_distilled_patch16_224", 64),
    "densenet": ("densenet121", 64),
    "dla": ("dla46x_c", 64),
    "dpn": ("dpn48b", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "efficientformer": ("efficientformer_l1", None),
    "efficientformer_v2": ("efficientformerv2_s0", None),
    "efficientnet": ("mnasnet_small", 64),
    "efficientvim": ("efficientvim_m1", 64),
    "efficientvit_mit": ("efficientvit_b0", 64),
    "efficientvit_msra": ("efficientvit_m0", None),
    "eva": ("eva02_tiny_patch14_224", 56),
    "fasternet": ("fasternet_t0", 64),
    "fastvit": ("fastvit_t8", 64),
    "focalnet": ("focalnet_tiny_srf", 64),
    "gcvit": ("gcvit_xxtiny", None),
    "gemma4_vit": ("gemma4_vit_167m", 96),
    "ghostnet": ("ghostnet_050", 64),
    "hardcorenas": ("hardcorenas_a", 64),
    "hgnet": ("hgnetv2_b0", 64),
    "hiera": ("hiera_tiny_224", None),
    "hieradet_sam2": ("sam2_hiera_tiny", 256),
    "hrnet": ("hrnet_w18_small", 64),
    "iformer": ("iformer_t", 64),
    "inception_next": ("inception_next_atto", 64),
    "inception_resnet_v2": ("inception_resnet_v2", 96),
    "inception_v3": ("inception_v3", 96),
    "inception_v4": ("inception_v4", 96),
    "lcnetv2": ("lcnetv2_small", 64),
    "levit": ("levit_128s", None),
    "lowformer": ("lowformer_b0", 64),
    "mambaout": ("mambaout_femto", 64),
    "maxxvit": ("test_coatnet", None),
    "metaformer": ("poolformer_s12", 64),
    "mlp_mixer": ("gmlp_ti16_224", None),
    "mobilenetv3": ("lcnet_035", 64),
    "mobilenetv5": ("mobilenetv5_base", 128),
    "mobilevit": ("mobilevit_xxs", 64),
    "mvitv2": ("mvitv2_tiny", None),
    "naflexvit": ("naflexvit_base_patch16_gap", 64),
    "nasnet": ("nasnetalarge", 96),
    "nest": ("nest_tiny", None),
    "nextvit": ("nextvit_small", 64),
    "nfnet": ("nf_resnet26", 64),
    "pit": ("pit_ti_224", None),
    "pnasnet": ("pnasnet5large", 96),
    "pvt_v2": ("pvt_v2_b0", 64),
    "qwen3_vit": ("qwen3_vit_88m", 64),
    "rdnet": ("rdnet_tiny", 64),
    "regnet": ("regnetx_002", 64),
    "repghost": ("repghostnet_050", 64),
    "repvit": ("repvit_m0_9", 64),
    "res2net": ("res2net50_48w_2s", 64),
    "resnest": ("resnest14d", 64),
    "resnet": ("resnet10t", 64),
    "resnetv2": ("resnetv2_18", 64),
    "rexnet": ("rexnet_100", 64),
    "selecsls": ("selecsls42", 64),
    "senet": ("legacy_seresnet18", 64),
    "sequencer": ("sequencer2d_s", None),
    "shvit": ("shvit_s1", 64),
    "sknet": ("skresnet18", 64),
    "starnet": ("starnet_s1", 64),
    "swiftformer": ("swiftformer_xs", 64),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 56),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", None),
    "tiny_vit": ("tiny_vit_5m_224", None),
    "tnt": ("tnt_s_patch16_224", None),
    "tresnet": ("tresnet_m", 64),
    "twins": ("twins_pcpvt_small", 64),
    "vgg": ("vgg11", 64),
    "visformer": ("visformer_tiny", None),
    "vision_transformer": ("vit_tiny_patch16_224", 64),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", None),
    "vision_transformer_relpos": ("test_vit_relpos", None),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64),
    "vitamin": ("vitamin_small_224", None),
    "volo": ("volo_d1_224", None),
    "vovnet": ("ese_vovnet19b_slim_dw", 64),
    "xception": ("legacy_xception", 96),
    "xception_aligned": ("xception41", 64),
    "xcit": ("xcit_nano_12_p16_224", 64),
}
"""timm's module -> its model and the picture size."""

SPREAD = (
    "torchvision/resnet18",
    "torchvision/squeezenet1_1",
    "torchvision/googlenet",
    "torchvision/mnasnet0_5",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
    "torchvision/efficientnet_b0",
    "torchvision/densenet121",
    "torchvision/regnet_y_400mf",
    "torchvision/swin_t",
    "timm/resnet10t",
    "timm/vit_tiny_patch16_224",
    "timm/cait_xxs24_224",
    "timm/convnext_atto",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/edgenext_xx_small",
    "timm/eva02_tiny_patch14_224",
    "timm/hrnet_w18_small",
    "timm/lcnet_035",
    "timm/levit_128s",
    "timm/pit_ti_224",
    "timm/pvt_v2_b0",
    "timm/starnet_s1",
    "timm/xcit_nano_12_p16_224",
    "timm/test_vit_relpos",
)
"""Checked by ``make test``; the rest by ``make contract``."""


def list_models() -> dict[str, int | None]:
    """Every backbone that is checked: id without weights -> picture size."""
    from graft.backbones.torchvision import list_names

    torchvision = {
        f"torchvision/{name}": TORCHVISION_SIZES.get(name, TORCHVISION_SIZE) for name in list_names()
    }
    timm = {f"timm/{name}": size for name, size in FAMILIES.values()}
    return {name: s for name, s in (timm | torchvision).items() if name not in EXCEPTIONS}
