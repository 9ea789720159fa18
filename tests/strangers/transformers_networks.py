"""Small classifiers of transformers: the names of their classes, and what of their configuration makes them small."""

from typing import Any

TEXT = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
DECODER = ENCODER | {"num_key_value_heads": 2, "head_dim": 8}
VISION = ENCODER | {"image_size": 32, "patch_size": 8}
SPEECH = ENCODER | {
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
    "apply_spec_augment": False,
}
STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64], "embedding_size": 16}
WINDOWS = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}

Options = dict[str, Any]

TEXT_NETWORKS: dict[str, Options] = {
    "Albert": ENCODER | {"embedding_size": 16},
    "Bart": {"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4}
    | {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "Bert": ENCODER,
    "BigBird": ENCODER | {"attention_type": "original_full"},
    "Bloom": {"hidden_size": 32, "n_layer": 6, "n_head": 4},
    "Camembert": ENCODER,
    "ConvBert": ENCODER | {"embedding_size": 32},
    "Data2VecText": ENCODER,
    "Deberta": ENCODER,
    "DebertaV2": ENCODER
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "norm_rel_ebd": "layer_norm"}
    | {"share_att_key": True},
    "DistilBert": {"dim": 32, "n_layers": 6, "n_heads": 4, "hidden_dim": 64},
    "Electra": ENCODER | {"embedding_size": 32},
    "Ernie": ENCODER,
    "Esm": ENCODER | {"mask_token_id": 3, "position_embedding_type": "rotary"},
    "FNet": ENCODER,
    "Falcon": {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4},
    "Flaubert": {"emb_dim": 32, "n_layers": 6, "n_heads": 4},
    "Funnel": {
        "d_model": 32,
        "block_sizes": [2, 2, 2],
        "n_head": 4,
        "d_head": 8,
        "d_inner": 64,
        "num_decoder_layers": 2,
    },
    "GPT2": {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 64},
    "GPTNeo": ENCODER
    | {"num_layers": 6, "num_heads": 4, "attention_types": [[["global", "local"], 3]], "window_size": 8},
    "GPTNeoX": ENCODER,
    "Gemma": DECODER,
    "IBert": ENCODER,
    "Llama": DECODER,
    "Longformer": ENCODER | {"attention_window": 16},
    "Luke": ENCODER | {"entity_vocab_size": 10, "entity_emb_size": 16},
    "MBart": {"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4}
    | {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "MPNet": ENCODER,
    "MegatronBert": ENCODER,
    "Mistral": DECODER,
    "MobileBert": ENCODER | {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "ModernBert": ENCODER | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
    "Nystromformer": ENCODER | {"num_landmarks": 16, "segment_means_seq_len": 16},
    "OPT": {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "Phi": ENCODER,
    "Qwen2": DECODER,
    "RemBert": ENCODER | {"input_embedding_size": 16, "output_embedding_size": 16},
    "RoCBert": ENCODER | {"enable_pronunciation": False, "enable_shape": False},
    "RoFormer": ENCODER | {"embedding_size": 32},
    "Roberta": ENCODER,
    "RobertaPreLayerNorm": ENCODER,
    "SqueezeBert": ENCODER | {"embedding_size": 32},
    "T5": {"decoder_start_token_id": 0} | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4},
    "XLM": {"emb_dim": 32, "n_layers": 6, "n_heads": 4},
    "XLMRoberta": ENCODER,
    "XLNet": {"d_model": 32, "n_layer": 6, "n_head": 4, "d_inner": 64},
    "Yoso": ENCODER,
}
"""For (rows, 16) tokens; the class is `...ForSequenceClassification`."""

IMAGE_NETWORKS: dict[str, Options] = {
    "Beit": VISION,
    "Bit": {"num_groups": 8, "hidden_sizes": [32, 64, 64, 64], "depths": [1, 1, 2, 1], "embedding_size": 32},
    "ConvNext": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    "ConvNextV2": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    "Cvt": {"embed_dim": [16, 32, 48], "depth": [1, 2, 3], "num_heads": [1, 2, 3]},
    "Data2VecVision": VISION,
    "DeiT": VISION,
    "Dinov2": VISION,
    "Dinov2WithRegisters": VISION,
    "EfficientNet": {"image_size": 64, "width_coefficient": 0.35, "depth_coefficient": 0.5, "hidden_dim": 448},
    "FocalNet": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 2, 1]},
    "Hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 4]},
    "IJepa": VISION,
    "Levit": {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
    | {"key_dim": [8, 8, 8], "drop_path_rate": 0},
    "MobileNetV1": {"depth_multiplier": 0.25, "min_depth": 8},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "MobileViT": {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 40, 64]},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
    "PoolFormer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    "Pvt": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 3, 4],
    },
    "PvtV2": {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
    | {"num_attention_heads": [1, 2, 3, 4]},
    "RegNet": STAGES | {"groups_width": 8},
    "ResNet": STAGES,
    "SwiftFormer": {"image_size": 64, "depths": [1, 1, 2, 1], "embed_dims": [16, 32, 48, 64]},
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "ViT": VISION,
    "ViTMSN": VISION,
}
"""For images of `image_size`, 64 if it is not there; the class is `...ForImageClassification`."""

SPEECH_NETWORKS: dict[str, Options] = {
    "Data2VecAudio": SPEECH | {"num_conv_pos_embeddings": 2},
    "Hubert": SPEECH,
    "SEW": SPEECH | {"squeeze_factor": 2},
    "UniSpeech": SPEECH,
    "UniSpeechSat": SPEECH,
    "Wav2Vec2": SPEECH,
    "Wav2Vec2Conformer": SPEECH,
    "WavLM": SPEECH,
}
"""For (rows, 1600) samples of sound; the class is `...ForSequenceClassification`."""
