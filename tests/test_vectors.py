import base64
import math
from collections.abc import Sequence

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.vectors import as_base64, as_floats, cosine, cut, floats, is_base64

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(float32s, min_size=1, max_size=20)
PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)


def fragment(numbers: Sequence[float]) -> bytes:
    """What a server writes when it is asked for base64."""
    return b'"' + base64.b64encode(np.asarray(numbers, "<f4").tobytes()) + b'"'


def listed(numbers: object) -> bytes:
    """What a server writes when it is asked for floats."""
    return orjson.dumps(numbers)


# Floats and base64


@PROPERTY
@given(vectors)
def test_base64_becomes_the_same_float32_numbers(numbers: list[float]) -> None:
    """A caller that reads them as float32 has every bit."""
    written = orjson.loads(as_floats(fragment(numbers)))

    assert np.asarray(written, np.float32).tobytes() == np.asarray(numbers, np.float32).tobytes()


@PROPERTY
@given(vectors)
def test_a_list_becomes_the_same_base64(numbers: list[float]) -> None:
    """As if the server had been asked for it."""
    assert as_base64(listed(numbers)) == fragment(numbers)


def test_numbers_are_written_in_their_shortest_form() -> None:
    """0.1 as float32 is not 0.10000000149011612."""
    assert as_floats(fragment([0.1, -2.5, 1 / 3])) == b"[0.1,-2.5,0.33333334]"


@pytest.mark.parametrize("as_it_is", [b"[0.1,2]", b"[[1.0,2.0],[3.0,4.0]]", b"[1,0,255]"])
def test_a_list_stays_as_the_server_wrote_it(as_it_is: bytes) -> None:
    """Nothing is gained by writing it anew."""
    assert as_floats(as_it_is) is as_it_is


def test_base64_stays_as_the_server_wrote_it() -> None:
    """The most frequent case costs nothing."""
    as_it_is = fragment([1, 2, 3])

    assert as_base64(as_it_is) is as_it_is


def test_several_vectors_become_one_base64_string() -> None:
    """Flattened, as Infinity does it."""
    assert as_base64(b"[[1.0,2.0],[3.0,4.0]]") == fragment([1, 2, 3, 4])


def test_several_vectors_keep_their_shape_as_numbers() -> None:
    """One row for each."""
    assert floats(b"[[1.0,2.0],[3.0,4.0],[5.0,6.0]]").tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_number_that_is_none_is_null_in_json_and_nan_in_base64() -> None:
    """JSON has no NaN; a server in trouble must not break the answer."""
    assert as_floats(fragment([math.nan, 1])) == b"[null,1.0]"
    assert np.isnan(floats(as_base64(b"[null,1.0]"))).tolist() == [True, False]


def test_which_form_a_fragment_has_is_seen_at_its_first_byte() -> None:
    """Nothing is parsed for that."""
    assert is_base64(fragment([1]))
    assert not is_base64(b"[1.0]")
    assert not is_base64(b"[[1.0]]")


# Cutting


@PROPERTY
@given(vectors, st.data())
def test_a_cut_vector_is_the_first_numbers_of_the_whole(numbers: list[float], data: st.DataObject) -> None:
    """Bit by bit, in either form; not normalised again."""
    dimensions = data.draw(st.integers(1, len(numbers)))

    as_base64_, as_list = cut([fragment(numbers), listed(numbers)], dimensions)

    assert as_base64_ == fragment(numbers[:dimensions])
    assert orjson.loads(as_list) == numbers[:dimensions]


@pytest.mark.parametrize("dimensions", [-1, 0, 4])
@pytest.mark.parametrize("written", [fragment([1, 2, 3]), b"[1.0,2.0,3.0]"])
def test_dimensions_that_are_not_there_are_refused(written: bytes, dimensions: int) -> None:
    """The error says how many there are."""
    with pytest.raises(BadRequest, match="from 1 to 3 for this model, not") as caught:
        cut([written], dimensions)

    assert caught.value.param == "dimensions"


def test_several_vectors_for_one_input_cannot_be_cut() -> None:
    """Matryoshka is about one vector."""
    with pytest.raises(BadRequest, match="several vectors"):
        cut([b"[[1.0,2.0],[3.0,4.0]]"], 1)


# Similarity


@PROPERTY
@given(st.integers(1, 16), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_the_cosine_is_that_of_numpy(dimensions: int, count: int, seed: int) -> None:
    """To double precision, whatever form the vectors have."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=dimensions).astype(np.float32)
    documents = rng.normal(size=(count, dimensions)).astype(np.float32)

    found = cosine(fragment(query.tolist()), [fragment(row.tolist()) for row in documents])
    as_lists = cosine(listed(query.tolist()), [listed(row.tolist()) for row in documents])

    q, d = query.astype(np.float64), documents.astype(np.float64)
    expected = [float(row @ q / np.linalg.norm(row) / np.linalg.norm(q)) for row in d]
    assert found == pytest.approx(expected)
    assert as_lists == pytest.approx(expected)


def test_the_similarity_runs_from_opposite_to_equal() -> None:
    """The length of a vector does not matter."""
    found = cosine(fragment([1, 0]), [fragment([5, 0]), fragment([0, 1]), fragment([-0.1, 0])])

    assert found == pytest.approx([1, 0, -1])


@pytest.mark.parametrize(("query", "document"), [([0, 0], [1, 0]), ([1, 0], [0, 0]), ([0, 0], [0, 0])])
def test_a_vector_of_zeros_is_similar_to_nothing(query: list[float], document: list[float]) -> None:
    """It has no direction, and a division by its length gives no number."""
    assert cosine(fragment(query), [fragment(document)]) == [0]


def test_extreme_lengths_do_not_overflow() -> None:
    """Their squares do not fit a float32."""
    assert cosine(fragment([3e38, 0]), [fragment([3e38, 0]), fragment([1e-30, 0])]) == pytest.approx([1, 1])


def test_several_vectors_for_one_input_have_no_cosine() -> None:
    """The caller is told so, as for `dimensions`."""
    several = b"[[1.0,2.0],[3.0,4.0]]"

    with pytest.raises(BadRequest, match="several vectors"):
        cosine(several, [several, b"[[1.0,2.0]]"])
