"""A program in JavaScript calls a node: it encodes canonical JSON with the function in `docs/client.md`."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from hearthnet.config import load, resolve_paths
from hearthnet.identity.keys import canonical_json

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"
CLIENT = Path(__file__).parent / "signed_call.mjs"
SPELL_ALL = """
import { readFileSync } from "node:fs";
const { canonical } = await import(process.argv[2]);
const texts = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => canonical(JSON.parse(text)))));
"""
NUMBERS = [1e-4, 1e-5, 1e-6, 1e-7, 1.5e-7, 1e15, 1e16, 1e17, 1e20, 1e21, 1e22, 2.0**53, 9007199254740994.0, 5e-324]
NUMBERS += [0.0, -0.0, 1.0, 0.1, 1.50, 100.0, 123456.789, 0.00012345, 1.7976931348623157e308, 123456789012345680000.0]
KEYS = ["z", "Z", "é", "\ue000", "\uffff", "\U00010000", "\U0001f600", "", "10", "9", 'a\u2028\x7f\x1f\b\t\n\f\r"\\/']


@pytest.fixture
def canonical_module(tmp_path):
    """The function of the document, as a module."""
    if shutil.which("node") is None:
        pytest.skip("node is not here (on Debian: apt-get install nodejs)")
    module = tmp_path / "canonical.mjs"
    program = re.search(r"```js\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)[1]
    module.write_text(f"{program}\nexport {{ canonical }};\n", "utf-8")
    return module


def spelled(module: Path, texts: list[str]) -> list[str]:
    """Returns the function's result for each JSON text."""
    program = module.with_name("spell_all.mjs")
    program.write_text(SPELL_ALL, "utf-8")
    command = ["node", str(program), str(module)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_numbers_are_spelled_alike(canonical_module):
    """JavaScript's encoding is the node's, for these and five thousand random values."""
    chance = random.Random(13)
    drawn = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(3_000)]
    drawn += [chance.uniform(-10, 10) * 10.0 ** chance.randrange(-9, 24) for _ in range(2_000)]
    floats = [sign * number for number in NUMBERS for sign in (1, -1)] + [n for n in drawn if math.isfinite(n)]
    integers = [0, 1, -1, 10**6, 2**31, 2**53, -(2**53)]
    found = spelled(canonical_module, [json.dumps(number) for number in [*floats, *integers]])

    assert found == [canonical_json(number).decode() for number in [*floats, *integers]]
    assert all(canonical_json(json.loads(text)).decode() == text for text in found)  # the node reads what was signed


def test_keys_and_texts_are_spelled_alike(canonical_module):
    """Keys are in the order of their code points, and escapes are the same."""
    value = {"a": [None, True, {key: key for key in reversed(KEYS)}, [], {}], **dict.fromkeys(KEYS, 1.0)}

    assert spelled(canonical_module, [json.dumps(value)]) == [canonical_json(value).decode()]


def test_javascript_calls_a_node(node, canonical_module):
    """Its calls are executed once, its GETs served, and it can verify that the responses are the node's."""
    body = {"params": {"numbers": NUMBERS, **dict.fromkeys(KEYS, 1e-5)}, "input": {"text": "hällo 🏠"}}
    keys_folder = resolve_paths(load()).identity.keys_dir
    done = subprocess.run(
        ["node", str(CLIENT), str(canonical_module), node.url, str(keys_folder), node.keys.node_id, json.dumps(body)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    called, again, recent, health = map(json.loads, done.stdout.splitlines())

    assert called == {"status": 200, "body": {"text": "hällo 🏠"}, "isProven": True}
    assert (again["status"], again["body"]["error"]) == (401, "invalid_signature")
    assert (recent["status"], recent["isProven"], recent["body"][0]["capability"]) == (200, True, "experimental.echo")
    assert (health["status"], "isProven" in health) == (200, False)
