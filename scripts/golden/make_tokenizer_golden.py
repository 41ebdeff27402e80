#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/: small tokenizers and what Hugging Face `tokenizers` makes of many strings.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python scripts/golden/make_tokenizer_golden.py              # writes the files
    /tmp/venv/bin/python scripts/golden/make_tokenizer_golden.py --explain llama3 1234   # one string in full

Files:
    strings.jsonl        one JSON string per line; the line number is the string's number
    KIND/tokenizer.json  trained here on the texts below, so that no model's vocabulary is copied
    KIND/hashes.txt      per string: 8 hexadecimal digits of a SHA-256 over ids and decoded text (see `digest`)
    KIND/full.jsonl      of some strings: [number, ids with special tokens, decoded text without special tokens]
    KIND/decoded.jsonl   random ids, as a model may emit them: [ids, decoded text with special tokens]
The hashes keep the folder small; --explain shows what is behind one.
"""
import argparse
import hashlib
import json
import random
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizer"
COUNT = 10_400      # strings in all
FULL_EVERY = 40     # every so many-th string is kept in full

# The split pattern that Llama 3's tokenizer.json names; facts of the format, needed to make a file like it.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

SENTENCES = """
The quick brown fox doesn't jump over the lazy dog; it's asleep, and they'll say we've seen 3,141 of them.
Quantization maps real numbers to a small set of values: 16-bit floats become 8-bit or 4-bit codes and a scale.
She said: "I'm sure you'd like 2 cups of tea (with milk), wouldn't you?" He'd rather have coffee at 07:45.
for (int i = 0; i < n; ++i) { sum += weights[i] * inputs[i]; }  // 2*n operations
def mean(values): return sum(values) / len(values)
SELECT name, count(*) FROM tokens WHERE id >= 128000 GROUP BY name;
https://example.org/path/to/page?query=1&other=two#part user@example.org
Der schnelle braune Fuchs springt über den faulen Hund. Straße, Größe, Übermut und Ärger.
Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; ¿añoraba a su querido cachorro?
Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń. Pijamalı hasta yağız şoföre çabucak güvendi.
Съешь же ещё этих мягких французских булок, да выпей чаю. Широкая электрификация южных губерний.
Ο καλύμνιος σφουγγαράς ψιθύρισε πως θα βουτήξει χωρίς να διστάζει.
צפרא זהירה ביום אביב נעים. نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر.
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले। বাংলা ভাষার একটি বাক্য।
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ກວ່າບັນດາຝູງສັດ យើងសរសេរអក្សរខ្មែរ မြန်မာစာ
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。量化把浮點數變成較小的整數，模型就能跑得更快。
我们用较低的精度保存权重，用更少的内存运行同一个模型。今天是2026年11月22日。
いろはにほへと ちりぬるを。わがよたれそ つねならむ。コンピュータは数字の配列です。
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 다람쥐 헌 쳇바퀴에 타고파.
Chú bé đi xe đạp qua cầu, trời mưa to quá. Ang bawat rehistradong kalahok sa patimpalak.
""".strip().split("\n")

EMOJI = ["😀", "😂", "🤔", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "❤️", "🔥🔥🔥", "🇩🇪", "🇯🇵🇰🇷", "1️⃣", "☃", "✨",
         "🧑‍💻", "™", "©", "½", "²", "Ⅷ", "①"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028",
          "\u0085", "\u180e", "\x0b", "\x0c", "\u202f", "\ufeff", "\u200d", "\u1680", "\x1c"]
CONTRACTIONS = ["'s", "'S", "'t", "'re", "'RE", "'ve", "'m", "'ll", "'LL", "'d", "'D", "’s", "'ſ", "'x", "''", "'"]
CODE = ["->", "==", "!=", "&&", "||", "<<", ">>", "::", "/*", "*/", "//", "{}", "[]", "()", "\\n", "<0x0A>", "▁", "▁▁",
        "$1", "#include", "0x1F", "<|", "|>", "<s", "/s>", "[INST", "INST]", "</", "_", "__init__", "\\", "`", "~", "^"]
SPECIAL = {
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "legacy": ["<unk>", "<s>", "</s>"],
    "metaspace": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
    "odd": ["[UNK]", "[END]", "<left>", "<right>", "<both>", "word", "Two Words", "<norm al>", " hi"],
    "joined": ["<a>", "<ab>", "<abc>", "<b>"],
}


def training_text():
    """The sentences above, many times in varied order: enough to learn a thousand merges."""
    draw = random.Random(1)
    words = [word for sentence in SENTENCES for word in sentence.split(" ")]
    for _ in range(300):
        yield draw.choice(SENTENCES)
        yield " ".join(draw.choices(words, k=12))
        yield str(draw.randrange(10**9)) + " " + "".join(draw.choices("abcdefghij \n", k=20)) + " " * draw.randrange(8)
        yield "\n" * draw.randrange(3) + "    " * draw.randrange(4) + "return x"


def commonest(count):
    """The characters that a small alphabet keeps. Left to itself the trainer settles ties by chance."""
    counts = {}
    for text in training_text():
        for character in text.replace(" ", "\u2581"):
            counts[character] = counts.get(character, 0) + 1
    chosen = sorted(counts, key=lambda c: (-counts[c], c))[:count]
    return {"initial_alphabet": chosen, "limit_alphabet": count}


def bpe_trainer(vocab_size, special, **settings):
    return trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, **settings)


def make_llama3():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tok.train_from_iterator(training_text(), bpe_trainer(
        1200, [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # Like Llama 3, special tokens come after the learned ones, and one learned token has no merge leading to it.
    tok = without_merge(tok, 3)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL["llama3"]])
    begin = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", begin)])])
    return tok


def without_merge(tok, every):
    """Drops the last merges of every so many-th token, so that ignore_merges makes a difference."""
    data = json.loads(tok.to_str())
    merges = data["model"]["merges"]
    used = {part for left, right in merges for part in (left, right)}
    data["model"]["merges"] = [m for i, m in enumerate(merges) if i % every or "".join(m) in used]
    return Tokenizer.from_str(json.dumps(data))


def make_smollm2():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tok.train_from_iterator(training_text(), bpe_trainer(
        1000, SPECIAL["smollm2"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_fallback_model(pre_tokenizer, vocab_size, alphabet):
    """Trains pieces with a word mark and puts the unknown, begin, end and byte tokens before them, as Llama 2 does."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizer
    trained.train_from_iterator(training_text(), bpe_trainer(vocab_size, [], **commonest(alphabet)))
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>"] + BYTES + sorted(model["vocab"], key=model["vocab"].get)
    for extra in ("\u2581\u2581", "\u2581\u2581\u2581\u2581"):  # runs of spaces, as these models have
        if extra not in tokens:
            tokens.append(extra)
            model["merges"].append([extra[:len(extra) // 2], extra[len(extra) // 2:]])
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in model["merges"]]
    return models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def frame_begin(tok):
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tok.token_to_id("<s>"))])


def make_legacy():
    split = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tok = Tokenizer(byte_fallback_model(split, 700, 120))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(content=" ", left=1, right=0)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL["legacy"]])
    frame_begin(tok)
    return tok


def make_metaspace():
    split = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tok = Tokenizer(byte_fallback_model(split, 600, 200))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(content=" ", left=1, right=0)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL["metaspace"]])
    frame_begin(tok)
    return tok


def make_odd():
    """What the models of the plan do not use but their neighbours do: no byte fallback, unknown tokens one by one, a
    word mark before each part, added tokens with every flag, a token at the end, Metaspace's own decoder."""
    tok = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"[\u2018\u2019]"), "'"),
                                           normalizers.Replace("``", '"')])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", behavior="merged_with_previous", invert=False),
        pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True),
        pre_tokenizers.Digits(individual_digits=False)])
    tok.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tok.train_from_iterator(training_text(), bpe_trainer(700, ["[UNK]", "[END]"], **commonest(90)))
    tok.add_tokens([AddedToken("<left>", lstrip=True, normalized=False),
                    AddedToken("<right>", rstrip=True, normalized=False),
                    AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
                    AddedToken("word", single_word=True, normalized=False), AddedToken("Two Words", single_word=True),
                    AddedToken("<norm al>", normalized=True), AddedToken(" hi", normalized=True)])
    tok.post_processor = processors.TemplateProcessing(single="$A [END]", pair="$A [END] $B:1 [END]:1",
                                                       special_tokens=[("[END]", tok.token_to_id("[END]"))])
    return tok


def make_joined():
    """The other ways to split: matches removed, joined with the next piece, runs kept together, the pattern inverted;
    byte level with a space put before, and no decoder."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\t", behavior="removed", invert=False),
        pre_tokenizers.Split(Regex(r"[A-Z]"), behavior="merged_with_next", invert=False),
        pre_tokenizers.Split(Regex(r"[.!?,;]"), behavior="contiguous", invert=False),
        pre_tokenizers.Split(Regex(r"\w+|\S"), behavior="merged_with_previous", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True)])
    tok.train_from_iterator(training_text(), bpe_trainer(
        600, [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_tokens([AddedToken(t, normalized=False) for t in SPECIAL["joined"]])
    return tok


KINDS = {"llama3": make_llama3, "smollm2": make_smollm2, "legacy": make_legacy, "metaspace": make_metaspace,
         "odd": make_odd, "joined": make_joined}


def assigned_long_ago(character):
    """Categories of characters of Unicode 3.2 hardly change; those of newer ones depend on each library's tables."""
    return (unicodedata.ucd_3_2_0.category(character) == unicodedata.category(character)
            and unicodedata.category(character) not in ("Cn", "Cs"))


def random_characters(draw, count):
    out = []
    while len(out) < count:
        top = draw.choice([0x7F, 0x250, 0x600, 0x3000, 0xFFFF, 0x1FFFF])
        character = chr(draw.randrange(top))
        if assigned_long_ago(character):
            out.append(character)
    return "".join(out)


def random_bytes(draw, count):
    text = bytes(draw.randrange(256) for _ in range(count)).decode("utf-8", errors="replace")
    return "".join(c for c in text if c == "\ufffd" or assigned_long_ago(c))


def one_string(draw):
    words = [word for sentence in SENTENCES for word in sentence.split(" ")]
    specials = [token for tokens in SPECIAL.values() for token in tokens]

    def part():
        kind = draw.randrange(14)
        if kind < 4:
            return " ".join(draw.choices(words, k=draw.randrange(1, 4)))
        if kind == 4:
            return draw.choice(SPACES) * draw.choice([1, 1, 2, 3])
        if kind == 5:
            return str(draw.randrange(10 ** draw.randrange(1, 9)))
        if kind == 6:
            return draw.choice(EMOJI)
        if kind == 7:
            return draw.choice(words) + draw.choice(CONTRACTIONS) + draw.choice(["", " ", "x"])
        if kind == 8:
            return draw.choice(CODE)
        if kind == 9:
            around = ["", " ", "  ", "x", "\n"]
            return draw.choice(around) + draw.choice(specials) + draw.choice(around)
        if kind == 10:
            return random_characters(draw, draw.randrange(1, 5))
        if kind == 11:
            return random_bytes(draw, draw.randrange(1, 8))
        if kind == 12:
            sentence = draw.choice(SENTENCES)
            at = draw.randrange(len(sentence))
            return sentence[at:at + draw.randrange(1, 12)]
        return draw.choice(" \n\t.-=a1é中") * draw.randrange(1, 12)

    return "".join(part() for _ in range(draw.choice([1, 1, 2, 2, 3, 4, 5])))


def make_strings():
    draw = random.Random(2)
    strings = ["", " ", "\n", "a", "\u2581", "Hello world", " Hello", "Hello  "]
    strings += ["x" * 200, " " * 100, "\n" * 50, "ab" * 100]
    strings += SENTENCES + SPACES + EMOJI + CONTRACTIONS + CODE + [t for tokens in SPECIAL.values() for t in tokens]
    seen = set(strings)
    while len(strings) < COUNT:
        text = one_string(draw)
        if text not in seen:
            seen.add(text)
            strings.append(text)
    return strings


def answer(tok, text):
    ids = tok.encode(text, add_special_tokens=True).ids
    return ids, tok.decode(ids, skip_special_tokens=True)


def random_ids(draw, tok):
    """Ids in any order, often with runs of byte tokens and pieces of characters."""
    top = draw.choice([tok.get_vocab_size(), min(tok.get_vocab_size(), 259)])
    ids = [draw.randrange(top) for _ in range(draw.randrange(1, 24))]
    return [ids, tok.decode(ids, skip_special_tokens=False)]


def digest(ids, decoded):
    """Ids as decimal numbers with spaces, a line feed, the decoded text; the first 8 hexadecimal digits of SHA-256."""
    return hashlib.sha256((" ".join(map(str, ids)) + "\n" + decoded).encode()).hexdigest()[:8]


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def explain(kind, number):
    text = [json.loads(line) for line in (OUT / "strings.jsonl").read_text("utf-8").split("\n") if line][number]
    tok = Tokenizer.from_file(str(OUT / kind / "tokenizer.json"))
    ids, decoded = answer(tok, text)
    print(compact({"text": text, "ids": ids, "tokens": [tok.id_to_token(i) for i in ids], "decoded": decoded,
                   "hash": digest(ids, decoded)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--explain", nargs=2, metavar=("KIND", "NUMBER"))
    args = parser.parse_args()
    if args.explain:
        return explain(args.explain[0], int(args.explain[1]))
    strings = make_strings()
    write(OUT / "strings.jsonl", map(compact, strings))
    for kind, make in KINDS.items():
        data = compact(json.loads(make().to_str()))
        write(OUT / kind / "tokenizer.json", [data])
        tok = Tokenizer.from_str(data)
        answers = [answer(tok, text) for text in strings]
        write(OUT / kind / "hashes.txt", [digest(*a) for a in answers])
        write(OUT / kind / "full.jsonl",
              [compact([i, *answers[i]]) for i in range(len(strings)) if i < 12 or i % FULL_EVERY == 0])
        draw = random.Random(3)
        write(OUT / kind / "decoded.jsonl", [compact(random_ids(draw, tok)) for _ in range(150)])
        print(f"{kind}: {tok.get_vocab_size()} tokens, {sum(len(ids) for ids, _ in answers)} ids")
    print(sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()), "bytes in", OUT, file=sys.stderr)


if __name__ == "__main__":
    main()
