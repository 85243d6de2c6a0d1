"""When a delivery comes again, and what it makes of each verdict: with a clock of its own."""

from __future__ import annotations

import pytest
from support.records import a_trace

from hearthnet.observability.otel.export import delivery
from hearthnet.observability.otel.export.delivery import Delivery
from hearthnet.observability.otel.export.verdict import Verdict

BATCH = [a_trace(n)._replace(seq=n) for n in range(1, 9)]


class Backend:
    """Gives one verdict after the other, and the last one for ever."""

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)
        self.sizes = []
        self.now = 100.0

    def send(self, body):
        """Takes a body."""
        self.sizes.append(body[0])
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]

    def line(self, **options):
        """A delivery to it."""
        encode = options.pop("encode", lambda records, _: bytes([len(records)]))
        return Delivery("traces", encode, self.send, clock=lambda: self.now, **options)


RETRY, OK, NO = (
    Verdict("retry", "http_503", "HTTP 503"),
    Verdict("accepted"),
    Verdict("refused", "http_400", "HTTP 400"),
)


@pytest.mark.parametrize(("failures", "least", "most"), [(1, 0.5, 1), (2, 1, 2), (4, 4, 8), (7, 30, 60), (40, 30, 60)])
def test_back_off(failures, least, most):
    """Doubles to a minute, and is never the same for all."""
    backend = Backend(RETRY)
    line = backend.line()
    for _ in range(failures):
        assert line.deliver(BATCH) == 0

    assert least <= line.ready_at - backend.now <= most
    assert line.limit == delivery._FIRST_RECORDS


@pytest.mark.parametrize(
    ("wait_s", "least", "most"), [(0.0, 0.5, 1.0), (10.0, 10.0, 11.0), (3_600.0, 3_600.0, 3_960.0)]
)
def test_time_that_the_backend_asks_for(wait_s, least, most):
    """Is waited for, and a little more; one that asks for none is not asked without end."""
    backend = Backend(Verdict("retry", "http_429", "x", wait_s=wait_s))
    line = backend.line()
    line.deliver(BATCH)

    assert least <= line.ready_at - backend.now <= most


def test_settings_at_fault_are_asked_again_after_five_minutes():
    """However often that is."""
    backend = Backend(Verdict("misset", "http_401", "HTTP 401"))
    line = backend.line()
    for _ in range(5):
        assert line.deliver(BATCH) == 0
        assert line.ready_at == backend.now + 300.0
        backend.now = line.ready_at
    assert len(backend.sizes) == 5


def test_end_of_an_outage():
    """The next batch is as large as ever, and the next outage begins with a short wait."""
    backend = Backend(RETRY, RETRY, RETRY, OK, RETRY)
    line = backend.line()
    for _ in range(4):
        line.deliver(BATCH)
    assert (line.trouble, line.limit) == (None, delivery.MAX_RECORDS)
    line.deliver(BATCH)

    assert line.ready_at - backend.now <= 1.0


def test_part_of_a_batch_is_done_when_the_backend_goes_away():
    """What was accepted before is not sent again."""
    backend = Backend(NO, OK, RETRY)
    line = backend.line()

    assert line.deliver(BATCH) == 4
    assert backend.sizes == [8, 4, 4]


def test_large_body_is_halved_unsent(monkeypatch):
    """Until it fits; a single record is sent whatever it has."""
    monkeypatch.setattr(delivery, "MAX_BYTES", 3)
    backend = Backend(OK)
    line = backend.line(encode=lambda records, _: bytes([len(records)]) * (1 + len(records)))

    assert line.deliver(BATCH) == 8
    assert backend.sizes == [2, 2, 2, 2]
    line.deliver(BATCH[:1])
    assert backend.sizes[-1] == 1


def test_records_without_a_form_are_not_sent():
    """They are counted, and done with."""

    def encode(records, unmapped):
        unmapped += [record.seq for record in records]

    backend = Backend(RETRY)
    line = backend.line(encode=encode)

    assert line.deliver(BATCH) == 8
    assert (backend.sizes, line.counts.failed, line.counts.sent) == ([], {"unmapped": 8}, 0)


def test_record_that_breaks_the_request_costs_itself_alone():
    """Whatever is wrong with it, its neighbours are sent."""

    def encode(records, _):
        if any(record.seq == 5 for record in records):
            raise OverflowError("no such time")
        return bytes([len(records)])

    backend = Backend(OK)
    line = backend.line(encode=encode)

    assert line.deliver(BATCH) == 8
    assert (sum(backend.sizes), line.counts.failed) == (7, {"unmapped": 1})


def test_stop_leaves_the_rest():
    """Between two requests."""
    backend = Backend(NO, OK, OK)
    line = backend.line(is_stopping=lambda: True)

    assert line.deliver(BATCH) == 4


# --- what is skipped, and what is not


class Judge(Backend):
    """Decides by the seqs of a request; an empty request has none."""

    def __init__(self, decide):
        super().__init__(OK)
        self.decide = decide

    def send(self, body):
        """Takes a body."""
        self.sizes.append(len(body))
        return self.decide(set(body))

    def line(self, **options):
        """A delivery whose bodies are the seqs."""
        return super().line(encode=lambda records, _: bytes(record.seq for record in records), **options)


HALF = [a_trace(n)._replace(seq=n) for n in range(1, 33)]
UNSURE = Verdict("unsure", "http_500", "HTTP 500")


def a_day(backend, line, records):
    """Delivers for a day; returns how many records are left."""
    ends_at = backend.now + 86_400.0
    while backend.now < ends_at and records:
        done = line.deliver(records[: line.limit])
        assert done or line.trouble
        records = records[done:]
        backend.now = max(backend.now + 2.0, line.ready_at)
    return len(records)


@pytest.mark.parametrize(
    ("verdict", "takes_empty"),
    [(NO, False), (UNSURE, False), (UNSURE, True), (Verdict("retry", "http_521", "x"), True)],
)
def test_outage_of_a_day_costs_nothing(logged, verdict, takes_empty):
    """Whatever its status: nothing says that the records are at fault. One line tells of it."""
    backend = Judge(lambda seqs: OK if takes_empty and not seqs else verdict)
    line = backend.line()

    assert a_day(backend, line, HALF) == len(HALF)
    assert line.counts.failed == {}
    assert len(logged) == 1
    assert len(backend.sizes) < 10_000


@pytest.mark.parametrize("takes_empty", [True, False])
@pytest.mark.parametrize("verdict", [NO, UNSURE])
def test_record_at_fault_is_skipped_wherever_it_is(verdict, takes_empty):
    """First, last, in the middle: that others are taken is evidence, also if they come behind it."""
    for bad in ({1}, {32}, {14, 15}, {1, 2, 3, 4, 5, 6, 7}):

        def decide(seqs, bad=bad):
            return verdict if seqs & bad or not (seqs or takes_empty) else OK

        backend = Judge(decide)
        line = backend.line()

        assert a_day(backend, line, HALF) == 0
        assert (line.counts.failed, line.counts.sent) == ({verdict.reason: len(bad)}, 32 - len(bad))


def test_records_that_are_too_old_do_not_hold_up_the_new_ones(logged):
    """A backend that refuses them with 400, and takes an empty request, gets the new ones at once; one line says so."""
    old = set(range(1, 201))
    backend = Judge(lambda seqs: NO if seqs & old else OK)
    line = backend.line()
    records = [a_trace(n)._replace(seq=n) for n in range(1, 256)]
    began = backend.now

    assert a_day(backend, line, records) == 0
    assert backend.now - began < 60.0
    assert (line.counts.failed, line.counts.sent) == ({"http_400": 200}, 55)
    assert len(logged) == 1
    assert len(backend.sizes) < 700


def test_one_call_is_bounded():
    """However much is refused, the other signal has its turn."""
    backend = Judge(lambda seqs: NO if seqs else OK)
    line = backend.line()
    done = line.deliver([a_trace(n)._replace(seq=n) for n in range(1, 256)])

    assert 0 < done < 255
    assert len(backend.sizes) == delivery._MAX_REQUESTS
    assert line.trouble is None


def test_refusal_of_everything_is_asked_again_after_five_minutes():
    """Also of an empty request: the settings are at fault."""
    backend = Judge(lambda seqs: NO)
    line = backend.line()

    assert line.deliver(HALF) == 0
    assert (line.trouble.kind, line.ready_at) == ("misset", backend.now + 300.0)
