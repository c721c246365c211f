"""The engine against a fake runner: single requests, and what happens when something goes wrong."""

import threading
import time

import numpy as np
import pytest
from engine_world import WAIT, Listener, until

from vkbackend.engine.request import Finished, Piece, PromptLogprobs, SamplingOptions
from vkbackend.errors import DeviceError, DeviceLost, RequestError, VkbackendError

# -- one request


def test_reply_then_end_token(world):
    here = world([["Hel", "lo", "!"]])
    text, finished = here.run()
    assert text == "Hello!"
    assert finished.reason == "stop"
    assert (finished.prompt_tokens, finished.tokens) == (5, 4)  # the end token counts
    prompt = here.tokenizer.encode("a prompt of five words")
    assert finished.context == prompt + [here.tokenizer.id(piece) for piece in ("Hel", "lo", "!")]
    assert finished.prompt_seconds > 0 and finished.decode_seconds > 0


def test_num_predict(world):
    here = world([["a", "b", "c", "d"]])
    text, finished = here.run(num_predict=1)
    assert (text, finished.reason, finished.tokens, finished.decode_seconds) == ("a", "length", 1, 0.0)
    text, finished = here.run(num_predict=4)
    assert (text, finished.reason, finished.tokens) == ("abcd", "length", 4)
    text, finished = here.run(num_predict=5)
    assert (text, finished.reason, finished.tokens) == ("abcd", "stop", 5)


def test_without_num_predict_ten_contexts_are_the_end(world):
    here = world([["x%d" % index for index in range(200)]], context_length=16)
    for num_predict in (-1, 0, 161):
        _, finished = here.run(num_predict=num_predict)
        assert (finished.reason, finished.tokens) == ("length", 160)


def test_stop_string_across_tokens_cuts_text_and_logprobs(world):
    here = world([[" 8", " 9", " 1", "0", " 1", "1", " 12"]])
    pieces = list(here.engine.generate(here.request(stop=["0 11"], logprobs=True)))
    finished = pieces.pop()
    assert "".join(piece.text for piece in pieces) == " 8 9 1"
    assert [entry.text for piece in pieces for entry in piece.logprobs] == [" 8", " 9", " 1"]
    assert (finished.reason, finished.tokens) == ("stop", 6)
    assert here.tokenizer.decode(finished.context).endswith(b"words 8 9 1")


def test_characters_split_over_tokens(world):
    party = "🎉".encode()
    here = world([[party[:1], party[1:3], party[3:], b"\xe6"]])
    pieces = list(here.engine.generate(here.request(logprobs=True, top_logprobs=2)))[:-1]
    assert [piece.text for piece in pieces] == ["🎉", ""]
    assert [entry.bytes for piece in pieces for entry in piece.logprobs] == [party[:1], party[1:3], party[3:], b"\xe6"]
    assert all(
        len(entry.top) == 2 and entry.top[0].logprob == entry.logprob for piece in pieces for entry in piece.logprobs
    )


def test_logprobs_are_of_the_raw_logits(world):
    here = world([["a", "a"]])
    hot = SamplingOptions(temperature=5.0, top_k=1, repeat_penalty=3.0)
    entries = [
        entry
        for event in here.engine.generate(here.request(options=hot, logprobs=True))
        if isinstance(event, Piece)
        for entry in event.logprobs
    ]
    row = here.runner.row(here.tokenizer.id("a")).astype(np.float64)
    assert [entry.logprob for entry in entries] == pytest.approx([30 - np.log(np.exp(row).sum())] * 2, abs=1e-5)


def test_sampled_tokens_are_penalised(world):
    here = world([["a", "a", "a"]])
    text, _ = here.run([9, 10], options=SamplingOptions(temperature=0, repeat_penalty=30.0), num_predict=2)
    assert text == "a<s>"  # 30 / 30 is less than the next best's 2


def test_prompt_logprobs_come_first_and_cover_every_token_but_the_first(world):
    here = world(prefill_chunk=4)
    prompt = [5, 6, 6, 7, 7, 7, 8, 9, 3000, 3000]
    here.runner.next_token = lambda tokens: 1 if tokens == prompt else tokens[-1]
    for _ in range(2):  # the second time, the prompt is in the cache, and runs nevertheless
        first, *_, finished = here.engine.generate(here.request(prompt, prompt_logprobs=True, top_logprobs=1))
        assert isinstance(first, PromptLogprobs) and finished.reason == "stop"
        assert [entry.token_id for entry in first.logprobs] == prompt[1:]
        for before, entry in zip(prompt, first.logprobs):
            row = here.runner.row(before).astype(np.float64)
            assert entry.logprob == pytest.approx(row[entry.token_id] - np.log(np.exp(row).sum()), abs=1e-5)
            assert entry.top[0].token_id == before
    assert next(here.engine.generate(here.request([5], prompt_logprobs=True))).logprobs == []


def test_a_loop_of_equal_pieces_ends(world):
    here = world([[" blue"] * 31, [" blue"] * 40, ["red "] + [" red"] * 40, [" a", " b"] * 40])
    text, finished = here.run(num_predict=60)
    assert (text, finished.reason) == (" blue" * 31, "stop")  # 31 in a row may be meant
    text, finished = here.run(num_predict=60)
    assert (text, finished.reason) == (" blue" * 31, "length")
    text, finished = here.run(num_predict=60)
    assert (text.split(), finished.reason) == (["red"] * 31, "length")
    text, finished = here.run(num_predict=60)
    assert (len(text.split()), finished.reason) == (60, "length")


def test_a_constraint_decides_what_may_come(world):
    here = world([["no"]])
    yes = here.tokenizer.id("yes")

    class OnlyYesThenEnd:
        accepted = []

        def allowed(self):
            mask = np.zeros(here.runner.vocab_size, bool)
            mask[1 if self.accepted else yes] = True
            return mask

        def accept(self, token_id):
            self.accepted.append(token_id)

    text, finished = here.run(constraint=OnlyYesThenEnd())
    assert (text, finished.reason, OnlyYesThenEnd.accepted) == ("yes", "stop", [yes])


def test_requests_that_cannot_run(world):
    here = world()
    for request, message in [
        (here.request([]), "no tokens"),
        (here.request([5, 4096]), "token 4096 is not in"),
        (here.request([-1]), "token -1 is not in"),
        (here.request(top_logprobs=21), "between 0 and 20"),
        (here.request([5] * 9, num_ctx=8, truncate=False), "the input length exceeds the context length"),
    ]:
        with pytest.raises(RequestError, match=message):
            here.engine.submit(request, Listener())
    assert here.run()[0] == "ok"


# -- context


def test_a_long_prompt_loses_its_middle(world):
    here = world()
    tokens = list(range(2, 52))
    _, finished = here.run(tokens, num_ctx=16, num_keep=4)
    assert finished.prompt_tokens == 16
    assert finished.context[:16] == tokens[:4] + tokens[-12:]
    here.tokenizer.adds_bos = True  # which is kept besides
    _, finished = here.run([here.tokenizer.bos_id] + tokens, num_ctx=16, num_keep=4)
    assert finished.context[:16] == [here.tokenizer.bos_id] + tokens[:4] + tokens[-11:]
    _, finished = here.run(tokens, num_ctx=16, num_keep=-1)
    assert finished.context[:16] == tokens[:15] + tokens[-1:]


def test_a_full_context_drops_half_of_what_is_not_kept(world):
    here = world()
    reply = ["w%d" % index for index in range(12)]
    ids = [here.tokenizer.id(piece) for piece in reply]
    prompt = list(range(500, 510))
    here.runner.next_token = lambda tokens: ids[0] if tokens == prompt else dict(zip(ids, [*ids[1:], 1]))[tokens[-1]]
    held = []
    here.runner.after_step = lambda: held.append(list(*here.runner.cached.values()))
    text, finished = here.run(prompt, num_ctx=12, num_keep=4)
    assert (text, finished.reason, finished.tokens) == ("".join(reply), "stop", 13)
    # 12 places: 10 of the prompt, w0, w1; for w2 half of the 8 that are not kept go.
    assert [tokens for tokens in held if len(tokens) == 12] == [
        prompt + ids[:2],
        prompt[:4] + prompt[8:] + ids[:6],
        prompt[:4] + ids[2:10],
    ]
    assert held[-1] == prompt[:4] + ids[6:]


def test_without_shift_a_full_context_is_the_end(world):
    here = world([["w%d" % index for index in range(50)]])
    text, finished = here.run([9] * 13, num_ctx=32, shift=False)
    assert (finished.reason, finished.tokens) == ("length", 20)  # the last one needs no place
    assert text.endswith("w19")
    _, finished = here.run([9] * 32, num_ctx=32, shift=False)
    assert (finished.reason, finished.tokens) == ("length", 1)


def test_a_held_back_text_is_sent_when_the_context_is_full(world):
    here = world([["a", "b", "EN", "D"]])
    text, finished = here.run([9] * 6, num_ctx=8, shift=False, stop=["END"])
    assert (text, finished.reason) == ("abEN", "length")


# -- cancelling


def test_cancel_mid_stream(world):
    here = world([["w%d" % index for index in range(1000)], ["next"]], max_sequences=1)
    here.runner.gate = threading.Semaphore(5)
    listener = here.start([5, 6])
    until(lambda: len(listener.events) == 5)
    listener.handle.cancel()
    here.runner.gate.release(1000)
    finished = listener.wait()
    assert finished.reason == "cancelled"
    assert finished.tokens in (5, 6)  # a step may have been under way
    assert here.run()[0] == "next"


def test_cancel_while_waiting(world):
    here = world([["a", "b"], ["c"]], max_sequences=1)
    here.runner.gate = threading.Semaphore(0)
    running = here.start([5, 6])
    waiting = here.start([7, 8])
    waiting.handle.cancel()
    here.runner.gate.release(1000)
    assert (waiting.wait().reason, waiting.wait().tokens, waiting.text) == ("cancelled", 0, "")
    assert (running.wait().reason, running.text) == ("stop", "ab")
    waiting.handle.cancel()  # too late, and harmless
    assert here.run()[0] == "c"


def test_leaving_the_loop_cancels(world):
    here = world([["w%d" % index for index in range(3000)]], max_sequences=1)
    for _ in here.engine.generate(here.request()):
        break
    until(lambda: here.engine.num_unfinished == 0)
    assert len(here.runner.steps) < 3000


def test_a_listener_that_raises_cancels_only_its_own(world):
    here = world([["w%d" % index for index in range(20)]], max_sequences=2)
    here.runner.gate = threading.Semaphore(0)
    good, calls = here.start([5, 6]), []

    def bad(event):
        calls.append(event)
        raise ValueError("no room for this event")

    here.engine.submit(here.request([7, 8]), bad)
    here.runner.gate.release(1000)
    assert good.wait().reason == "stop" and len(good.events) == 21
    until(lambda: here.engine.num_unfinished == 0)
    assert len(calls) == 1


# -- failing


def test_a_failing_step_fails_the_running_requests_and_the_engine_keeps_running(world):
    here = world([["a", "b", "c"]], max_sequences=2)
    here.runner.gate = threading.Semaphore(0)
    running = [here.start([5, 6]), here.start([7, 8])]
    waiting = here.start([9, 10])
    here.runner.gate.release(2)
    until(lambda: all(listener.events for listener in running))
    error = DeviceError("a submission failed")
    here.runner.fail_with = error
    here.runner.gate.release(1000)
    for listener in running:
        assert listener.wait().exception is error
    assert waiting.wait().reason == "stop" and waiting.text == "abc"
    assert here.engine.failure is None
    assert here.run()[0] == "abc"


def test_generate_raises_what_failed(world):
    here = world()
    here.runner.fail_with = DeviceError("a submission failed")
    with pytest.raises(DeviceError, match="a submission failed"):
        here.run()


def test_a_lost_device_ends_the_engine(world):
    here = world(max_sequences=1)
    here.runner.gate = threading.Semaphore(0)
    here.runner.fail_with = DeviceLost("the driver reset the device")
    running, waiting = here.start([5, 6]), here.start([7, 8])
    here.runner.gate.release(1000)
    assert isinstance(running.wait().exception, DeviceLost)
    assert isinstance(waiting.wait().exception, DeviceLost)
    assert isinstance(here.engine.failure, DeviceLost)
    with pytest.raises(DeviceLost, match="driver reset.*load the model again"):
        here.engine.submit(here.request(), Listener())


def test_logits_that_are_not_numbers_fail_their_own_generation(world):
    here = world([["a", "b", "c"]], max_sequences=2)
    plain = here.runner.row
    poison = here.tokenizer.id("poison")
    here.runner.row = lambda token_id: plain(token_id) * np.float32(np.nan if token_id == poison else 1)
    here.runner.next_token = lambda tokens: (
        poison if tokens[0] == 5 and len(tokens) == 4 else 20 + len(tokens) if len(tokens) < 8 else 1
    )
    bad, good = here.start([5, 6]), here.start([7, 8])
    assert "NaN" in str(bad.wait().exception)
    assert good.wait().reason == "stop"


# -- closing


def test_close_cancels_and_refuses(world):
    here = world([["w%d" % index for index in range(1000)]], max_sequences=1)
    here.runner.gate = threading.Semaphore(3)
    running, waiting = here.start([5, 6]), here.start([7, 8])
    until(lambda: len(running.events) == 3)
    closing = threading.Thread(target=here.engine.close)
    closing.start()
    until(lambda: here.engine._closing)
    here.runner.gate.release(1000)
    closing.join(WAIT)
    assert running.wait().reason == waiting.wait().reason == "cancelled"
    with pytest.raises(VkbackendError, match="closed"):
        here.engine.submit(here.request(), Listener())


def test_an_idle_engine_uses_no_time(world):
    here = world()
    here.run()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_a_listener_may_submit_and_close(world):
    here = world([["a"], ["b"]])
    second = Listener()

    def first(event):
        if isinstance(event, Finished):
            here.engine.submit(here.request([7, 8]), second)

    here.engine.submit(here.request([5, 6]), first)
    assert second.wait().reason == "stop" and second.text == "b"
    here.engine.submit(here.request([9, 10]), lambda event: here.engine.close())
    here.engine._thread.join(WAIT)
    assert not here.engine._thread.is_alive()
