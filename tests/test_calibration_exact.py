"""Calibration sees exactly the inputs that the layers of the float model see, and counts every token once.

Each model is quantized without loss (8 bits, a scale for every weight), so that the inputs that methods are
handed must be those that plain hooks on the float model see, in every architecture, padded or not.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from qcore import QLinear, quantize
from qcore.calibration.layers import calibrate
from qcore.formats import Format, IntGroup
from qcore.linears import as_linear, linear_names, never_called
from qcore.methods import InputStats, Method, Rtn
from qcore.qweight import QWeight
from qcore.report import QuantizationReport

LOSSLESS = IntGroup(8, False, 1)
V, H, T, B = 60, 32, 10, 5

_SMALL = {
    "vocab_size": V, "hidden_size": H, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BERT = {k: v for k, v in _SMALL.items() if k not in ("num_key_value_heads", "head_dim")}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4,
            "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}  # fmt: skip
_MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
        "num_key_value_heads": 4, "head_dim": 4, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1}  # fmt: skip
_MAMBA = {"state_size": 4, "conv_kernel": 4, "expand": 2, "time_step_rank": 4}
_SEQ2SEQ = {
    "vocab_size": V, "d_model": H, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "max_position_embeddings": 64,
}  # fmt: skip
_VIT = {"hidden_size": H, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 16, "patch_size": 8}  # fmt: skip

Batch = dict[str, Tensor]

# Class of the model, of its configuration, arguments.
TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _SMALL),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _SMALL),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _SMALL),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_SMALL, "sliding_window": 4}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _SMALL),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_SMALL, "sliding_window": 4}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_SMALL, "sliding_window": 4}),
    "phi": ("PhiForCausalLM", "PhiConfig", {**_SMALL, "num_key_value_heads": 4}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _SMALL),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _SMALL),
    "cohere": ("CohereForCausalLM", "CohereConfig", _SMALL),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _SMALL),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _SMALL),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", _SMALL),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _BERT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": V, "n_embd": H, "n_layer": 2, "n_head": 4}),
    "gptj": ("GPTJForCausalLM", "GPTJConfig",
             {"vocab_size": V, "n_embd": H, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_BERT, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "bloom": ("BloomForCausalLM", "BloomConfig",
              {"vocab_size": V, "hidden_size": H, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconForCausalLM", "FalconConfig", {**_BERT, "new_decoder_architecture": False}),
    "mpt": ("MptForCausalLM", "MptConfig", {"vocab_size": V, "d_model": H, "n_layers": 2, "n_heads": 4}),
    "bert": ("BertForMaskedLM", "BertConfig", _BERT),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _BERT),
    "distilbert": ("DistilBertModel", "DistilBertConfig",
                   {"vocab_size": V, "dim": H, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
    "electra": ("ElectraModel", "ElectraConfig", {**_BERT, "embedding_size": 16}),
    "albert": ("AlbertModel", "AlbertConfig",
               {**_BERT, "num_hidden_layers": 4, "num_hidden_groups": 1, "embedding_size": 16}),
    "albert-groups": ("AlbertModel", "AlbertConfig",
                      {**_BERT, "num_hidden_layers": 4, "num_hidden_groups": 2, "embedding_size": 16}),
    "mpnet": ("MPNetModel", "MPNetConfig", _BERT),
    "deberta": ("DebertaModel", "DebertaConfig", {**_BERT, "relative_attention": True,
                                                  "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": ("DebertaV2Model", "DebertaV2Config", {**_BERT, "relative_attention": True,
                                                         "pos_att_type": ["c2p", "p2c"]}),
    "modernbert": ("ModernBertModel", "ModernBertConfig", {**_BERT, "local_attention": 4}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_SMALL, **_EXPERTS}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {**_SMALL, **_EXPERTS}),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {**_SMALL, **_EXPERTS}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", {**_SMALL, **_EXPERTS, **_MLA}),
    "mamba": ("MambaForCausalLM", "MambaConfig", {**_BERT, **_MAMBA}),
    "falcon-mamba": ("FalconMambaForCausalLM", "FalconMambaConfig", {**_BERT, **_MAMBA}),
    "mamba2": ("Mamba2ForCausalLM", "Mamba2Config",
               {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 2, "state_size": 4, "head_dim": 8,
                "num_heads": 8, "expand": 2, "n_groups": 1, "chunk_size": 4}),
    "jamba": ("JambaForCausalLM", "JambaConfig",
              {**_SMALL, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
               "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4,
               "use_mamba_kernels": False}),
    "recurrent-gemma": ("RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
                        {**_SMALL, "num_hidden_layers": 3, "lru_width": H, "attention_window_size": 8}),
    "rwkv": ("RwkvForCausalLM", "RwkvConfig",
             {"vocab_size": V, "hidden_size": H, "attention_hidden_size": H, "num_hidden_layers": 2,
              "intermediate_size": 48, "context_length": 64}),
}  # fmt: skip
SEQ2SEQ: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config",
           {"vocab_size": V, "d_model": H, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "pad_token_id": 0, "decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
    "marian": ("MarianMTModel", "MarianConfig", _SEQ2SEQ),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", _SEQ2SEQ),
    "m2m100": ("M2M100ForConditionalGeneration", "M2M100Config", _SEQ2SEQ),
}  # fmt: skip
OTHER = ["vit", "deit", "beit", "dinov2", "swin", "clip-vision", "siglip-vision", "clip", "whisper",
         "wav2vec2", "hubert", "llava", "qwen2-vl"]  # fmt: skip


def text_model(name: str) -> nn.Module:
    cls, config, arguments = {**TEXT, **SEQ2SEQ}[name]
    return getattr(tf, cls)(getattr(tf, config)(**arguments))


def other_model(name: str) -> tuple[nn.Module, Callable[[int], Batch]]:
    """A model, and what makes its batches."""

    def pixels(rows: int) -> Batch:
        return {"pixel_values": torch.randn(rows, 3, 16, 16)}

    def sound(rows: int) -> Batch:
        return {"input_values": torch.randn(rows, 400)}

    text = {"vocab_size": V, "hidden_size": H, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
    convolutions = {**_BERT, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3),
                    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
                    "num_conv_pos_embedding_groups": 2}  # fmt: skip
    plain = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "dinov2": "Dinov2"}
    if name in plain:
        return getattr(tf, plain[name] + "Model")(getattr(tf, plain[name] + "Config")(**_VIT)), pixels
    if name == "swin":
        sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
                 "window_size": 4}  # fmt: skip
        return tf.SwinModel(tf.SwinConfig(**sizes)), pixels
    if name == "clip-vision":
        return tf.CLIPVisionModel(tf.CLIPVisionConfig(**_VIT)), pixels
    if name == "siglip-vision":
        return tf.SiglipVisionModel(tf.SiglipVisionConfig(**_VIT)), pixels
    if name == "clip":
        config = tf.CLIPConfig(text_config=text, vision_config=_VIT, projection_dim=16)
        return tf.CLIPModel(config), lambda rows: {**ids_of(rows), **pixels(rows)}
    if name == "whisper":
        config = tf.WhisperConfig(**_SEQ2SEQ, num_mel_bins=8, max_source_positions=12,
                                  max_target_positions=32, suppress_tokens=None,
                                  begin_suppress_tokens=None)  # fmt: skip
        return tf.WhisperForConditionalGeneration(config), lambda rows: {
            "input_features": torch.randn(rows, 8, 24),
            "decoder_input_ids": torch.randint(1, V, (rows, 7)),
        }
    if name == "wav2vec2":
        return tf.Wav2Vec2Model(tf.Wav2Vec2Config(**convolutions)), sound
    if name == "hubert":
        return tf.HubertModel(tf.HubertConfig(**convolutions)), sound
    if name == "llava":
        config = tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**_VIT),
                                text_config=tf.LlamaConfig(**_SMALL), image_token_index=V - 1,
                                vision_feature_layer=-1)  # fmt: skip
        return tf.LlavaForConditionalGeneration(config), lambda rows: with_image(rows, 4)
    assert name == "qwen2-vl"
    config = tf.Qwen2VLConfig(
        text_config={**_SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                                   "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 2, "embed_dim": H, "hidden_size": H, "num_heads": 4, "mlp_ratio": 2,
                       "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=V - 1, vision_start_token_id=V - 2, vision_end_token_id=V - 3, video_token_id=V - 4,
    )  # fmt: skip

    def qwen_batch(rows: int) -> Batch:
        batch = with_image(rows, 4)
        batch["pixel_values"] = torch.randn(rows * 16, 3 * 2 * 4 * 4)
        batch["mm_token_type_ids"] = (batch["input_ids"] == V - 1).long()
        batch["image_grid_thw"] = torch.tensor([[1, 4, 4]] * rows)
        return batch

    return tf.Qwen2VLForConditionalGeneration(config), qwen_batch


def ids_of(rows: int, length: int = T) -> Batch:
    return {"input_ids": torch.randint(3, V - 4, (rows, length))}


def with_image(rows: int, tokens: int) -> Batch:
    batch = ids_of(rows)
    batch["input_ids"][:, 3 : 3 + tokens] = V - 1
    batch["pixel_values"] = torch.randn(rows, 3, 16, 16)
    return batch


def padded(ids: Tensor, left: bool, least: int = 3) -> Tensor:
    """A mask of random lengths."""
    lengths = torch.randint(least, ids.shape[1] + 1, (ids.shape[0], 1))
    lengths[0] = least
    at = torch.arange(ids.shape[1])
    return (at >= ids.shape[1] - lengths if left else at < lengths).long()


Rows = Callable[[str, Tensor, Mapping[str, Tensor]], Tensor | None]


def decoder_rows(layer: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    mask = batch.get("attention_mask")
    if mask is None:
        return None
    if x.shape[:2] == mask.shape:
        return mask.bool()
    if "pos_" in layer:
        return None  # relative positions, which may be as many
    return mask.bool().reshape(x.shape[:-1]) if x.shape[:-1].numel() == mask.numel() else None


def seq2seq_rows(layer: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    cross = re.search(r"(EncDecAttention|encoder_attn)\.[kv](_proj)?$", layer)
    in_decoder = "decoder." in layer or layer == "lm_head"
    mask = batch.get("decoder_attention_mask" if in_decoder and not cross else "attention_mask")
    return None if mask is None else mask.bool()


class Spy(Method):
    """Rounds to nearest and remembers what it was handed."""

    name = "spy"
    needs_calibration = True
    last: InputStats | None = None

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        self.last = stats
        return Rtn().quantize(w, None, format, scale_dtype)


def check(model: nn.Module, batches: list[Batch], sequential: bool, rows: Rows) -> QuantizationReport:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "pos" not in name:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    expected: dict[str, tuple[int, Tensor]] = {}
    with as_linear(model):
        names = linear_names(model)
        skip = never_called(model, names)
        reference = copy.deepcopy(model)
        current: dict[str, Any] = {}

        def see(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
                x = (args[0] if args else next(iter(kwargs.values()))).double()
                keep = rows(name, x, current)
                x = x.reshape(-1, x.shape[-1]) if keep is None else x[keep]
                count, total = expected.get(name, (0, torch.zeros(x.shape[-1], dtype=torch.float64)))
                expected[name] = (count + len(x), total + x.square().sum(0))

            return hook

        for name in names:
            reference.get_submodule(name).register_forward_pre_hook(see(name), with_kwargs=True)
        with torch.no_grad():
            for current in batches:
                reference(**{key: value.clone() for key, value in current.items()})
        spy, seen = Spy(), {}
        report = QuantizationReport()

        def emit(name: str, weight: QWeight) -> None:
            assert spy.last is not None, name
            seen[name] = spy.last

        formats = dict.fromkeys((name for name in names if name not in skip), LOSSLESS)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message=".*no calibration token.*")
            warnings.filterwarnings("ignore", message=".*calibrated as a whole.*")
            calibrate(model, formats, batches, spy, emit, sequential=sequential, report=report)
    for name in formats:
        count, total = expected.get(name, (0, torch.zeros(1, dtype=torch.float64)))
        if name in report.without_tokens:
            assert count == 0, name
            continue
        assert seen[name].tokens == count, f"{name}: {seen[name].tokens} tokens, expected {count}"
        want, got = total / count, seen[name].second_moment
        assert (got - want).abs().max() < 1e-4 * want.abs().max() + 1e-9, name
    return report


@pytest.mark.large_grid
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("padding", ["", "left", "right"])
@pytest.mark.parametrize("name", [*TEXT, *SEQ2SEQ])
def test_texts(name: str, padding: str, several: bool, sequential: bool) -> None:
    batch = ids_of(B)
    if padding:
        batch["attention_mask"] = padded(batch["input_ids"], padding == "left")
    if name in SEQ2SEQ:
        length = T if several else T - 3  # the same as the encoder's, too
        batch["decoder_input_ids"] = torch.randint(3, V, (B, length))
        if padding:
            batch["decoder_attention_mask"] = padded(batch["decoder_input_ids"], False)
    size = 2 if several else B
    batches = [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, B, size)]
    report = check(text_model(name), batches, sequential, seq2seq_rows if name in SEQ2SEQ else decoder_rows)
    assert not report.padding_counted


@pytest.mark.large_grid
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("name", OTHER)
def test_other_inputs(name: str, several: bool, sequential: bool) -> None:
    model, make = other_model(name)
    batches = [make(2), make(3)] if several else [make(4)]
    for batch in batches:
        if "input_ids" in batch:
            batch["attention_mask"] = padded(batch["input_ids"], False, least=8)
        if "decoder_input_ids" in batch:
            batch["decoder_attention_mask"] = padded(batch["decoder_input_ids"], False)

    def rows(layer: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
        if re.search(r"vision|visual|projector|projection", layer):
            return None
        if name == "whisper":
            cross = re.search(r"encoder_attn\.[kv]_proj$", layer)
            return (
                batch["decoder_attention_mask"].bool()
                if not cross and re.search("decoder|proj_out", layer)
                else None
            )
        return decoder_rows(layer, x, batch)

    check(model, batches, sequential, rows)


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_masks_of_samples_count_at_the_rate_of_the_encoder(name: str) -> None:
    model, make = other_model(name)
    batch = make(3)
    lengths = torch.tensor([[400], [250], [160]])
    batch["attention_mask"] = (torch.arange(400) < lengths).long()

    def rows(layer: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return model._get_feature_vector_attention_mask(x.shape[1], batch["attention_mask"])

    assert not check(model, [batch], True, rows).padding_counted


@pytest.mark.parametrize("kind", ["bool", "additive", "float"])
def test_masks_of_pairs_exclude_what_nobody_looks_at(kind: str) -> None:
    batch = ids_of(4)
    mask = padded(batch["input_ids"], True).bool()
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    pairs = (causal & mask[:, None]).unsqueeze(1)  # bool [B, 1, T, T]
    pairs |= torch.eye(T, dtype=torch.bool) & mask[:, None, None]
    batch["attention_mask"] = pairs if kind == "bool" else torch.zeros(pairs.shape)
    if kind != "bool":
        batch["attention_mask"].masked_fill_(~pairs, torch.finfo(torch.float32).min)
    if kind == "float":
        batch["attention_mask"].clamp_(min=-1e9)
    check(text_model("llama"), [batch], True, lambda layer, x, batch: mask)


class Experts(nn.Module):
    """Experts as a list of modules, which read the rows that are sent to them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(H, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(H, 24), nn.Tanh(), nn.Linear(24, H)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, H)
        chosen = self.router(rows)[:, :3].argmax(-1)  # nothing is sent to the last one
        out = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            at = (chosen == index).nonzero().flatten()
            if len(at):
                out[at] = expert(rows[at])
        return x + out.reshape(x.shape)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.layers = nn.ModuleList(Experts() for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("sequential", [True, False])
def test_rows_that_experts_gather_are_known_again(sequential: bool) -> None:
    torch.manual_seed(3)
    batch = ids_of(6)
    batch["attention_mask"] = padded(batch["input_ids"], False)
    model = Mixture()
    sent: dict[str, Tensor] = {}

    def rows(layer: str, x: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The same decision again, in the test."""
        mask = batch["attention_mask"].bool()
        if layer.endswith("router"):
            block = layer.partition(".router")[0]
            weight = reference[f"{block}.router.weight"].double(), reference[f"{block}.router.bias"].double()
            sent[block] = (x.double() @ weight[0].T + weight[1])[:, :3].argmax(-1)
            return mask.reshape(-1)
        block, _, index = layer.rpartition(".")[0].partition(".experts.")
        return mask.reshape(-1)[sent[block] == int(index)]

    class Lazy(dict):  # type: ignore[type-arg]
        def __missing__(self, name: str) -> Tensor:
            return original[name]

    reference, original = Lazy(), dict(model.named_parameters())
    report = check(model, [batch], sequential, rows)
    assert {f"layers.{i}.experts.3.{j}" for i in range(2) for j in (0, 2)} <= set(report.without_tokens)
    assert not report.padding_counted


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_layers_whose_weight_is_only_read_stay_as_they_are(method: str) -> None:
    model = text_model("mamba").eval()
    ids = ids_of(4)["input_ids"]
    with pytest.warns(UserWarning, match="largest left out"):
        quantize(model, "W8A16", method, calibration=ids, group_size=16)
    names = [f"backbone.layers.{i}.mixer.dt_proj" for i in range(2)]
    assert model.qcore_report.not_called == names
    assert all(type(model.get_submodule(name)) is nn.Linear for name in names)
    model(input_ids=ids)


@pytest.mark.parametrize("name", ["vit", "clip", "whisper", "qwen2-vl", "t5"])
def test_gptq_of_other_kinds_end_to_end(name: str) -> None:
    torch.manual_seed(0)
    if name == "t5":
        model, batch = text_model(name), ids_of(6)
        batch["decoder_input_ids"] = ids_of(6, 7)["input_ids"]
    else:
        model, make = other_model(name)
        batch = make(6)
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*largest left out.*")
        before = model(**batch)[0]
        quantize(model, "W8A16", "gptq", calibration=[batch], group_size=16)
        after = model(**batch)[0]
    assert sum(isinstance(module, QLinear) for module in model.modules()) >= 8
    assert (after - before).norm() < 0.05 * before.norm()


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gpt2", ones(2, 65), "sequences of 65 tokens; the model has positions for 64"),
        ("bert", ones(2, 65), "positions for 64"),
        ("llama", [{"input_ids": ones(2, 5), "attention_mask": ones(2, 4)}], "attention_mask"),
        ("llama", [{"input_ids": ones(2, 5), "attention_mask": 0 * ones(2, 5)}], "every"),
        ("llama", [{"pixel_values": torch.ones(2, 3, 8, 8)}], "item 0 .pixel_values"),
        ("llama", [ones(2, 5), {"input_ids": torch.full((2, 5), V)}], "token ids of 0 to 60"),
        ("whisper", [{"input_features": torch.ones(1, 8, 24)}], "nothing for the decoder to read"),
        ("vit", torch.ones(2, 3, 9, 9), "item 0 .pixel_values"),
        ("vit", [{"input_ids": ones(2, 5)}], "input_ids"),
    ],
)  # fmt: skip
def test_data_that_the_model_cannot_read(name: str, data: Any, message: str) -> None:
    if name == "gpt2":
        config = tf.GPT2Config(vocab_size=V, n_embd=H, n_layer=1, n_head=4, n_positions=64)
        model: nn.Module = tf.GPT2LMHeadModel(config)
    else:
        model = text_model(name) if name in TEXT else other_model(name)[0]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        quiet(model, data)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_an_encoder_with_a_decoder_reads_plain_text() -> None:
    model = text_model("t5").eval()
    quiet(model, ids_of(4)["input_ids"])
    assert type(model.get_submodule("decoder.block.0.layer.0.SelfAttention.q")) is QLinear
    assert not model.qcore_report.without_tokens


def quiet(model: nn.Module, data: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*largest left out.*")
        quantize(model, "W8A16", "gptq", calibration=data, group_size=16)


def test_caches_end_with_the_call_and_configurations_are_what_they_were() -> None:
    """Those of the parts of a composite model decide."""
    model, _ = other_model("llava")
    batches = [ids_of(2), ids_of(3)]  # no image: nothing reaches the vision tower
    report = check(model, batches, True, lambda layer, x, batch: None)
    assert model.config.text_config.use_cache
    assert {name for name in report.without_tokens if "vision_tower" in name}
    assert not {name for name in report.without_tokens if "language_model" in name}
