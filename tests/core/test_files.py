import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.core.errors import StoreError
from truing.core.files import content_key, replacing, write_json

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
