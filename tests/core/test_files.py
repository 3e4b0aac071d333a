import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from truing.core.errors import StoreError
from truing.core.files import content_key, load_json, load_yaml, replacing, write_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_equal_parts_give_equal_keys(value: object) -> None:
    again = json.loads(json.dumps(value))
    assert content_key("a", value) == content_key("a", again)
    assert content_key("a", value) != content_key("b", value)
    assert len(content_key(value)) == 32


def test_key_does_not_depend_on_dictionary_order() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"rate": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not write"):
        write_json(tmp_path / "file" / "x.json", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice, in line 1 and in line 3"),
        ("b:\n  - {x: 1, x: 1}\n", "the key 'x' is given twice, in line 2 and in line 2"),
        ("a:\n  c: 1\n  d: 2\n  c: {}\n", "the key 'c' is given twice, in line 2 and in line 4"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError, match=words):
        load_yaml(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' is given twice in one object"),
        ('[{"a": 1},\n {"b": {"a": 1,\n\t"a": 2}}]', "the key 'a' is given twice, in line 2 and in line 3"),
        ('{"\\u0061": 1,\n"a": 2}', "the key 'a' is given twice, in line 1 and in line 2"),
    ],
)
def test_a_key_that_json_gives_twice_is_refused(text: str, words: str) -> None:
    for given_as in (text, text.encode()):
        with pytest.raises(ValueError, match=words):
            load_json(given_as)


@given(plain)
def test_other_json_is_read_as_ever(value: object) -> None:
    assert load_json(json.dumps(value)) == value


def test_other_yaml_is_read_as_ever() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n1: a\n'1': b\n"
    assert load_yaml(text) == yaml.safe_load(text) == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, 1: "a", "1": "b"}


@pytest.mark.parametrize("text", ["seed: 010", "at: 12:30"])
def test_numbers_that_yaml_reads_in_another_base_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="base 8 or 60"):
        load_yaml(text)
    assert load_yaml("a: [0, 10, -3, 0x10, '010']") == {"a": [0, 10, -3, 16, "010"]}
