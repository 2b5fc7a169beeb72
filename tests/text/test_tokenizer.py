import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from gorae.text import CONTROL_TOKENS, END_THINK, EOS, THINK, StreamDecoder, Tokenizer

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
texts_with_tags = st.lists(st.sampled_from([*CONTROL_TOKENS, "고래", "鲸", "7", "\n", " a", "<th"]) | unicode_text).map(
    "".join
)


def test_control_tokens_have_the_first_ids_in_the_agreed_order(tokenizer):
    ids = (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.user_id,
        tokenizer.assistant_id,
        tokenizer.think_id,
        tokenizer.end_think_id,
    )
    assert ids == (0, 1, 2, 3, 4, 5, 6)
    assert tokenizer.encode("".join(CONTROL_TOKENS), parse_special=True) == list(range(7))


def test_the_same_texts_give_the_same_file_to_the_byte(texts, tmp_path):
    for name in ("one", "two"):
        Tokenizer.train(iter(texts), vocab_size=400).save(tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_training_on_little_text_gives_the_vocabulary_the_text_can_fill(texts):
    assert Tokenizer.train([], vocab_size=1000).vocab_size == 263
    assert Tokenizer.train(texts, vocab_size=300).vocab_size == 300


def test_a_vocabulary_without_room_for_every_byte_is_refused(texts):
    with pytest.raises(ValueError, match=r"vocab_size=262 has no room for 256 bytes.*263 or more"):
        Tokenizer.train(texts, vocab_size=262)


def test_every_digit_is_a_token_of_its_own(tokenizer):
    assert len(tokenizer.encode("2024")) == 4
    assert tokenizer.encode("20 + 4") == [
        index for part in ("2", "0", " +", " ", "4") for index in tokenizer.encode(part)
    ]


@given(text=texts_with_tags)
def test_text_survives_the_round_trip_and_never_becomes_a_control_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(index >= len(CONTROL_TOKENS) for index in ids)
    assert tokenizer.decode(ids) == text


@given(texts=st.lists(texts_with_tags, max_size=5))
def test_a_batch_is_encoded_like_its_texts_one_by_one(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_half_a_surrogate_pair_is_encoded_as_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83d")) == "a\ufffd"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


def test_decode_drops_special_tokens_and_keeps_the_thinking_tags(tokenizer):
    assert tokenizer.decode(range(7)) == THINK + END_THINK


def test_an_id_that_a_model_has_beyond_the_tokenizer_s_says_nothing_and_one_below_0_is_refused(tokenizer):
    ids = tokenizer.encode("a")
    assert tokenizer.decode([*ids, 9999, *ids]) == "aa"
    with pytest.raises(ValueError, match="id -1 is no token; ids begin with 0"):
        tokenizer.decode([7, -1])


@given(data=st.data())
def test_any_ids_are_decoded_as_the_library_decodes_them(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert tokenizer.decode(ids) == tokenizer._library.decode(ids, skip_special_tokens=True)


@given(data=st.data())
def test_a_stream_of_any_ids_in_any_pieces_is_the_decoded_whole(tokenizer, data):
    pieces = data.draw(st.lists(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=4)))
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(decoder.push(piece) for piece in pieces) + decoder.finish()
    assert streamed == tokenizer.decode(index for piece in pieces for index in piece)


@given(text=unicode_text | st.text("고래는바다鲸鱼是海😀"))
def test_a_stream_never_shows_part_of_a_character(tokenizer, text):
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push([index]) for index in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert decoder.finish() == ""


def test_a_stream_cut_inside_a_character_ends_in_one_replacement_character(tokenizer):
    ids = Tokenizer.train([], vocab_size=263).encode("고")
    decoder = StreamDecoder(Tokenizer.train([], vocab_size=263))
    assert decoder.push(ids[:2]) == ""
    assert decoder.finish() == "\ufffd"


def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    text = f"{THINK}\n고래 12{EOS}"
    for parse_special in (False, True):
        assert loaded.encode(text, parse_special=parse_special) == tokenizer.encode(text, parse_special=parse_special)
    assert loaded.vocab_size == tokenizer.vocab_size
    loaded.save(tmp_path / "again")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "new" / "folder" / file).read_bytes()


def test_the_thinking_tags_are_saved_as_added_but_not_special(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    added = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert [token["content"] for token in added] == list(CONTROL_TOKENS)
    assert [token["content"] for token in added if not token["special"]] == [THINK, END_THINK]
    assert not any(token["normalized"] for token in added)


def test_loading_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json; give a folder"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="only byte-level BPE can be read"):
        Tokenizer.load(tmp_path)


def test_a_word_outside_the_byte_alphabet_is_refused(tmp_path):
    library = tokenizers.Tokenizer(models.BPE(vocab={"가": 0}, merges=[]))
    library.decoder = tokenizers.decoders.ByteLevel()
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="has a word with '가', which stands for no byte"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_our_control_tokens_is_refused(tmp_path):
    library = tokenizers.Tokenizer(models.BPE())
    library.decoder = tokenizers.decoders.ByteLevel()
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="the tokenizer has no token <｜end▁of▁sentence｜>"):
        Tokenizer.load(tmp_path)


def test_a_broken_file_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer\.json can not be read as a tokenizer .*; save or download it"):
        Tokenizer.load(tmp_path)


def test_a_piece_has_bytes_unless_it_is_a_control_token_or_beyond_the_vocabulary(tokenizer):
    (first, *_) = tokenizer.encode("鲸")
    assert tokenizer.piece(tokenizer.eos_id) == (EOS, None)
    assert tokenizer.piece(tokenizer.vocab_size + 5) == ("", None)
    assert tokenizer.piece(tokenizer.encode("a")[0]) == ("a", b"a")
    assert tokenizer.piece(first)[1] == tokenizer.bytes_of([first])
