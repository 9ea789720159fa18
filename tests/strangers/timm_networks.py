"""Small classifiers of timm's families: for each the size of its images and what else it is built with."""

from typing import Any

_ANY_SIZE = """
    bat_resnext26ts:256 caformer_s18 convformer_s18 convmixer_768_32 convnext_atto convnext_zepto_rms cpubone_nano
    cs3darknet_focus_s cs3darknet_s csatv2 cspnext_tiny cspresnet50 davit_tiny densenet121 dla46_c dla46x_c dla60x_c dpn48b dpn68
    eca_halonext26ts:256 eca_nfnet_l0 edgenext_xx_small efficientnet_b0 efficientnet_es efficientnet_lite0 efficientvim_m1
    efficientvit_b0 ese_vovnet19b_slim ese_vovnet19b_slim_dw fasternet_t0 fastvit_sa12 fastvit_t8 fbnetc_100 focalnet_tiny_srf
    gcresnext26ts ghostnet_050 ghostnetv2_100 ghostnetv3_050 halonet_h1:256 hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small
    iformer_t inception_next_atto inception_v3:96 lambda_resnet26t lcnet_050 lcnetv2_small legacy_seresnet18
    legacy_seresnext26_32x4d legacy_xception lowformer_b0 mambaout_femto mixnet_s mnasnet_small mobilenetv1_100 mobilenetv2_050
    mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium mobileone_s1 mobilevit_xxs mobilevitv2_050
    nextvit_small nf_regnet_b0 nf_resnet26 poolformer_s12 poolformerv2_s12 pvt_v2_b0 rdnet_tiny regnetv_040 regnetx_002
    regnety_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s res2next50 resnest14d resnet10t resnet18 resnet26d resnet50
    resnetrs50 resnetv2_18 rexnet_100 rexnetr_100 selecsls42 semnasnet_075 seresnext26d_32x4d shvit_s1 skresnet18 spnasnet_100
    starnet_s050 test_byobnet test_convnext test_efficientnet test_efficientnet_ln test_mambaout test_nfnet test_resnet
    tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tresnet_m twins_pcpvt_small vgg11_bn xcit_nano_12_p16_224
"""
"""Networks that take images of any size: 64 pixels unless another size stands there."""

_FIXED_SIZE = """
    beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convit_tiny crossvit_tiny_240:240
    deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 eca_botnext26ts_256 efficientformer_l1:224 efficientformerv2_s0
    efficientvit_m0 eva02_tiny_patch14_224:56 flexivit_small gcvit_xxtiny gmixer_12_224 gmlp_ti16_224 hiera_tiny_224:224
    levit_128s levit_conv_128s maxvit_pico_rw_256 mixer_s16_224 mvitv2_tiny nest_tiny pit_ti_224 pit_ti_distilled_224
    resmlp_12_224 samvit_base_patch16_224 sequencer2d_s swiftformer_xs:224 swin_s3_tiny_224:224 swin_tiny_patch4_window7_224
    swinv2_cr_tiny_224:224 swinv2_tiny_window8_256 test_vit test_vit2 test_vit3 test_vit_relpos tnt_s_patch16_224 twins_svt_small
    visformer_tiny vit_base_mci_224 vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 volo_d1_224
"""
"""Networks that are built for a size of images."""

_LARGE = "beit_base_patch16_224", "samvit_base_patch16_224", "vit_base_mci_224"
"""Families without a small member: these get four blocks."""


def _read(names: str, *, fixed: bool) -> dict[str, tuple[int, dict[str, Any]]]:
    found = {}
    for word in names.split():
        name, _, size = word.partition(":")
        pixels = int(size or 64)
        options: dict[str, Any] = {"img_size": pixels} if fixed else {}
        found[name] = (pixels, options | ({"depth": 4} if name in _LARGE else {}))
    return found


TIMM_NETWORKS = _read(_ANY_SIZE, fixed=False) | _read(_FIXED_SIZE, fixed=True)
