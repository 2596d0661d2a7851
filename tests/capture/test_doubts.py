"""What the probe cannot tell about the rows of a layer is said in a note."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import zoo
from support.reference import assert_right, compare
from support.trees import probed
from torch import nn

ALL = {"model1_layers": "all", "model2_layers": "all"}


def judged(arrange, batch):
    """Why the layer cannot be compared, or what is in doubt."""
    tree = probed(zoo.Around(arrange), batch)
    (output,) = next(x.outputs for x in tree.nodes if x.name == "inside")
    return output.reason or output.doubts


def tokens(count=17, size=16):
    torch.manual_seed(1)
    return torch.randn(size, count, 6)


def roll_tokens(first, last):
    return lambda x: torch.cat(
        [x[:, :first], x[:, first:last].roll(1, 0), x[:, last:]], 1
    )


@pytest.mark.parametrize("size", [6, 16])
@pytest.mark.parametrize(
    ("count", "first", "last"),
    [(17, 0, 1), (17, 16, 17), (17, 5, 6), (197, 0, 1), (197, 101, 102)],
)
def test_a_few_tokens_of_other_examples_are_noted(size, count, first, last):
    batch = tokens(count, size)
    assert judged(roll_tokens(first, last), batch) == ("placed",)
    assert judged(roll_tokens(0, count), batch).startswith("rows are not")


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: torch.cat([x[x[:, 0, 0].argsort(), :1], x[:, 1:]], 1),
        lambda x: torch.where(torch.arange(len(x))[:, None, None] < 7, x * 1.2, x),
        lambda x: x + 0.1 * x.cumsum(0) / (1 + torch.arange(len(x)))[:, None, None],
    ],
    ids=["sorted", "first_scaled", "running_mean"],
)
def test_values_that_depend_on_places_are_noted(arrange):
    assert judged(arrange, tokens()) == ("placed",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [5, 8, 20])
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: (x - x.mean(0)) / x.std(0),
        lambda x: (x.flatten(1) @ x.flatten(1).T).softmax(1)[..., None, None] * x[None],
        lambda x: x + x.mean(0),
        lambda x: x.sort(1).values,
        lambda x: 1000 + x,
    ],
    ids=["itself", "norm", "pairs", "mean", "own_order", "offset"],
)
def test_layers_that_mix_examples_on_purpose_are_not_in_doubt(arrange, size, dtype):
    def cast(x):
        made = arrange(x.to(dtype))
        return (made.sum(1) if made.ndim == 4 else made).to(x.dtype)

    assert judged(cast, tokens(size=size)) == ()


def test_noise_is_noted_and_does_not_hide_rows_of_others():
    def noisy(arrange, size):
        return lambda x: arrange(x) + size * torch.randn_like(x)

    batch = tokens()
    for size in (0.05, 0.5, 50):
        assert judged(noisy(lambda x: x, size), batch) == ("random",)
    for size in (0.01, 0.1):
        for arrange in (lambda x: x.flip(0), lambda x: x.roll(1, 0)):
            assert judged(noisy(arrange, size), batch).startswith("rows are not")


def notes_of(model, batches):
    return compare(model, batches=batches, **ALL).notes


def test_notes_name_the_layers():
    (placed,) = notes_of(zoo.Around(roll_tokens(0, 1)), [tokens()])
    assert placed.startswith("Around: in 'inside', the values of an example depend on")
    (random,) = notes_of(zoo.Around(lambda x: x + torch.randn_like(x)), [tokens()])
    assert random.startswith("Around: in 'inside', values depend on random numbers")


def test_what_was_in_doubt_is_in_the_provenance():
    model = zoo.Around(roll_tokens(0, 1))
    result = compare(
        model, model, [tokens()], model2_layers=["head"], model1_layers="all"
    )
    assert result.provenance["doubts"] == {
        "model1": {"placed": ["inside"]},
        "model2": {},
    }


def gated(first, arrange):
    """Zeros in the first batch; the batches differ by their size."""
    return lambda x: arrange(x) if len(x) == 20 else x * 0 + first


@pytest.mark.parametrize("first", [0.0, 3.0])
def test_rows_that_are_the_same_in_the_probe_and_not_later_are_noted(first):
    batches = [torch.randn(n, 6) for n in (16, 20, 20)]
    (note,) = notes_of(zoo.Around(gated(first, lambda x: x.flip(0))), batches)
    assert "in 'inside', nearly all examples of the probe had the same" in note


def test_rows_that_are_always_the_same_are_only_undefined():
    batches = [torch.randn(n, 6) for n in (16, 20)]
    (note,) = notes_of(zoo.Around(lambda x: x * 0), batches)
    assert "undefined" in note


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_examples_are_too_few(count):
    def rare(x):
        return x * (x[:, 0] >= x[:, 0].topk(count).values[-1])[:, None]

    torch.manual_seed(1)
    batch = torch.randn(9, 6)
    assert judged(rare, batch) == ("alike",)
    others = judged(lambda x: rare(x).roll(1, 0), batch)
    assert others == ("alike",) or others.startswith("rows are not")


class Gate(nn.Module):
    """Returns what it was given, with a loss of its own."""

    def __init__(self, made):
        super().__init__()
        self.inner, self.made = nn.Linear(8, 8), made

    def forward(self, x):
        return x, self.made(self.inner(x))


@pytest.mark.parametrize(
    ("made", "noted"),
    [
        (lambda x: x.mean(), True),
        (lambda x: x.mean().reshape(1), True),
        (lambda x: x.argmax(1), True),
        (lambda x: x, False),
        (lambda _: None, False),
    ],
    ids=["loss", "loss_of_1", "choice", "itself", "nothing"],
)
def test_a_tensor_that_was_passed_on_is_noted(made, noted):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gate = nn.Linear(10, 8), Gate(made)

        def forward(self, x):
            return self.gate(self.first(x))[0]

    notes = notes_of(Gated(), zoo.batches_of())
    assert any("'gate', the tensor compared is one that" in x for x in notes) == noted


class Threads(nn.Module):
    """Runs its branches in threads."""

    def __init__(self, start):
        super().__init__()
        self.stem, self.left = nn.Linear(10, 8), nn.Linear(8, 8)
        self.right = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Tanh())
        self.start = start

    def forward(self, x):
        x = self.stem(x)
        return sum(self.start([lambda m=m: m(x) for m in (self.left, self.right)]))


def in_pool(calls):
    with ThreadPoolExecutor(2) as pool:
        return [x.result() for x in [pool.submit(call) for call in calls]]


def in_threads(calls):
    made = []
    threads = [threading.Thread(target=lambda c=c: made.append(c())) for c in calls]
    for thread in threads:
        thread.start()
        thread.join()
    return made


@pytest.mark.parametrize("start", [in_pool, in_threads])
def test_parts_that_run_in_threads_of_the_model_are_noted(start):
    trained, evaluated = Threads(start).train(), Threads(start).eval()
    notes = notes_of(trained, zoo.batches_of())
    assert "calls 5 layers ('left', 'right', 'right.0', ...) in threads" in notes[0]
    assert "Call model.eval() before." in notes[0]
    assert notes[0].grave
    (note,) = notes_of(evaluated, zoo.batches_of())
    assert "in threads of its own, which are not compared." in note
    assert not note.grave


def test_a_thread_that_uses_the_model_for_itself_is_not_noted():
    model, ended = zoo.mlp(), threading.Event()

    def work():
        while not ended.is_set():
            model(torch.randn(3, 10))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert notes_of(model, zoo.batches_of()) == []
    finally:
        ended.set()
        thread.join()


def through_data(x):
    x.data.abs_()
    return x


def through_numpy(x):
    array = x.detach().numpy()
    array[:] = abs(array)
    return x


@pytest.mark.parametrize("change", [through_data, through_numpy])
def test_what_is_written_past_torch_is_another_layer(change):
    class Plain(nn.Module):
        def __init__(self, change):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.change = nn.Linear(10, 8), zoo.Returning(change)
            self.same, self.head = nn.Identity(), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.same(self.change(self.first(x))))

    batches = zoo.batches_of()
    result = compare(Plain(change), batches=batches, **ALL)
    assert result.layers1 == ("first", "change", "same", "head")
    assert_right(result, Plain(torch.abs), Plain(torch.abs), batches)
