"""Tokens of services: many random ones of each, by a table of their forms of its own."""

from __future__ import annotations

import base64
import random
import re
import string
from pathlib import Path
from uuid import UUID

import pytest
from support.longer import few

from hearthnet.observability.redaction import vendors
from hearthnet.observability.redaction.rules import REDACTED, scrub
from hearthnet.observability.redaction.shapes import BRANCHES
from hearthnet.observability.redaction.vendors import MARKS, VENDORS, marked_at, token_at

HEX, LOWER, UPPER = "0123456789abcdef", string.digits + string.ascii_lowercase, string.digits + string.ascii_uppercase
ALNUM = string.digits + string.ascii_letters
WORD, BASE64, LETTERS = f"{ALNUM}-_", f"{ALNUM}+/", string.ascii_letters
DOCS = Path(__file__).parents[3] / "docs"
AT_ONCE = 40  # in one text
ALONE = frozenset({"Databricks"})  # found in short texts only
# Parts of tokens as their vendors describe them: literal text, or an alphabet and a number of characters.
FORMS = {
    "1Password, secret key": ["A3-", (UPPER, 6), "-", (UPPER, 6), "-", (UPPER, 5), "-", (UPPER, 5), "-", (UPPER, 5)],
    "1Password, service account": ["ops_eyJ", (BASE64, 300)],
    "Adobe": ["p8e-", (ALNUM, 32)],
    "age": ["AGE-SECRET-KEY-1", ("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)],
    "Airtable": ["pat", (ALNUM, 14), ".", (HEX, 64)],
    "Airtable, OAuth": [(ALNUM, 16), ".v1.", (WORD, 48), ".", (HEX, 64)],
    "Alibaba Cloud": ["LTAI", (ALNUM, 20)],
    "Amazon Bedrock": ["ABSK", (BASE64, 120)],
    "Amazon, access key": ["AKIA", ("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)],
    "Amazon, temporary": ["ASIA", ("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)],
    "Anthropic": ["sk-ant-api03-", (WORD, 93), "AA"],
    "Artifactory": ["AKCp", (ALNUM, 69)],
    "Atlassian": ["ATATT3", (WORD, 186)],
    "ClickHouse": ["4b1d", (ALNUM, 38)],
    "Cloudflare, origin CA": ["v1.0-", (HEX, 24), "-", (HEX, 146)],
    "DigitalOcean": ["dop_v1_", (HEX, 64)],
    "Azure DevOps": [(ALNUM, 76), "AZDO", (ALNUM, 4)],
    "Authress": ["sc_", (LOWER, 10), ".", (LOWER, 5), ".acc-", (LOWER, 12), ".", (BASE64, 40)],
    "Bitbucket": ["BBDC-", (f"{ALNUM}+/_-", 11), "@", (f"{ALNUM}+/_-", 32)],
    "Bitbucket, no sign": ["BBDC-", (f"{ALNUM}+/", 44)],
    "ClickUp": ["pk_", (string.digits, 8), "_", (UPPER, 32)],
    "Databricks": ["dapi", (HEX, 32)],
    "Deno": ["ddp_", (ALNUM, 36)],
    "Discord, bot": ["M", (ALNUM, 23), ".", (WORD, 6), ".", (WORD, 38)],
    "Docker": ["dckr_pat_", (WORD, 27)],
    "Doppler": ["dp.pt.", (ALNUM, 43)],
    "Doppler, service": ["dp.st.prd.", (ALNUM, 43)],
    "Dropbox": ["sl.", (WORD, 135)],
    "Dynatrace": ["dt0c01.", (UPPER, 24), ".", (UPPER, 64)],
    "EasyPost": ["EZAK", (ALNUM, 54)],
    "Entra ID": [(ALNUM, 3), "8Q~", (WORD, 34)],
    "Entra ID, refresh": ["0.A", (WORD, 60), ".Ag", (WORD, 300)],
    "Facebook": ["EAAC", (ALNUM, 120)],
    "Fly.io, several": ["FlyV1 fm2_", (BASE64, 120), ",fo1_", (WORD, 43)],
    "Figma": ["figd_", (WORD, 40)],
    "Fly.io": ["fm2_", (BASE64, 120)],
    "GitHub": ["ghp_", (ALNUM, 36)],
    "GitHub, fine-grained": ["github_pat_", (ALNUM, 22), "_", (ALNUM, 59)],
    "GitHub, app": ["ghs_", (f"{ALNUM}_", 60)],
    "GitHub, app, stateless": ["ghs_", (string.digits, 7), "_", (WORD, 40), ".", (WORD, 300), ".", (WORD, 43)],
    "GitLab, deploy": ["gldt-", (WORD, 20)],
    "GitLab, feed": ["glft-", (WORD, 20)],
    "GitLab, personal": ["glpat-", (WORD, 20)],
    "GitLab, runner": ["GR1348941", (WORD, 20)],
    "Google": ["AIza", (WORD, 35)],
    "Google, authorization": ["AQ.", (WORD, 50)],
    "Google, OAuth": ["GOCSPX-", (WORD, 28)],
    "Grafana": ["glsa_", (ALNUM, 32), "_", (HEX, 8)],
    "Groq": ["gsk_", (ALNUM, 52)],
    "Harness": ["pat.", (WORD, 22), ".", (ALNUM, 24), ".", (ALNUM, 20)],
    "Hugging Face": ["hf_", (LETTERS, 34)],
    "LaunchDarkly": ["sdk-", (LOWER, 8), "-", (LOWER, 4), "-", (LOWER, 4), "-", (LOWER, 4), "-", (LOWER, 12)],
    "Linear": ["lin_api_", (ALNUM, 40)],
    "Lob": ["test_", (HEX, 35)],
    "Mailchimp": [(HEX, 32), "-us12"],
    "Mailgun": ["key-", (HEX, 32)],
    "Mapbox": ["pk.", (LOWER, 60), ".", (LOWER, 22)],
    "MaxMind": [(ALNUM, 6), "_", (ALNUM, 29), "_mmk"],
    "New Relic": ["NRAK-", (UPPER, 27)],
    "Notion": ["ntn_", (string.digits, 11), (ALNUM, 35)],
    "npm": ["npm_", (ALNUM, 36)],
    "NVIDIA": ["nvapi-", (WORD, 64)],
    "Octopus": ["API-", (UPPER, 26)],
    "OpenAI": ["sk-", (ALNUM, 20), "T3BlbkFJ", (ALNUM, 20)],
    "OpenAI, project": ["sk-proj-", (WORD, 74), "T3BlbkFJ", (WORD, 74)],
    "OpenShift": ["sha256~", (WORD, 43)],
    "Perplexity": ["pplx-", (ALNUM, 48)],
    "PlanetScale": ["pscale_tkn_", (WORD, 43)],
    "Postman": ["PMAK-", (HEX, 24), "-", (HEX, 34)],
    "Pulumi": ["pul-", (HEX, 40)],
    "PyPI": ["pypi-AgEIcHlwaS5vcmc", (WORD, 120)],
    "Razorpay": ["rzp_live_", (ALNUM, 14)],
    "Replicate": ["r8_", (ALNUM, 37)],
    "RubyGems": ["rubygems_", (HEX, 48)],
    "SendGrid": ["SG.", (WORD, 22), ".", (WORD, 43)],
    "Salesforce": ["00D", (ALNUM, 12), "!", (ALNUM, 96)],
    "Sentry": ["sntryu_", (HEX, 64)],
    "Shopify": ["shpat_", (HEX, 32)],
    "Slack, app": ["xapp-1-", (UPPER, 11), "-", (string.digits, 13), "-", (HEX, 64)],
    "Slack, bot": ["xoxb-", (string.digits, 12), "-", (string.digits, 12), "-", (ALNUM, 24)],
    "Slack, refresh, short": ["xoxr-9-", (UPPER, 10)],
    "Slack, workspace": ["xoxa-2-", (string.digits, 12), "-", (HEX, 32)],
    "Square": ["sq0atp-", (WORD, 22)],
    "Stripe, live": ["sk_live_", (ALNUM, 24)],
    "Stripe, prod": ["rk_prod_", (ALNUM, 10)],
    "Stripe, webhook": ["whsec_", (BASE64, 32)],
    "Supabase": ["sbp_", (HEX, 40)],
    "Tailscale": ["tskey-auth-", (ALNUM, 17), "-", (ALNUM, 32)],
    "Telegram, short id": [(string.digits, 5), ":A", (WORD, 34)],
    "Telegram": [(string.digits, 10), ":AA", (WORD, 33)],
    "Terraform": [(ALNUM, 14), ".atlasv1.", (WORD, 67)],
    "Twilio": ["SK", (HEX, 32)],
    "Twitch": ["live_", (string.digits, 9), "_", (ALNUM, 30)],
    "Typeform": ["tfp_", (WORD, 59)],
    "Vault": ["hvs.", (WORD, 95)],
    "Vault, before 1.10": ["s.", (ALNUM, 24)],
    "X": ["A" * 22, (ALNUM, 90)],
    "Zoho": ["1000.", (HEX, 32), ".", (HEX, 32)],
    "Kerberos, AS-REP": ["$krb5asrep$23$bob@EXAMPLE.ORG:", (HEX, 32), "$", (HEX, 200)],
    "Kerberos, AS-REP, AES": ["$krb5asrep$18$bob$EXAMPLE.ORG$", (HEX, 24), "$", (HEX, 200)],
    "Kerberos, TGS": ["$krb5tgs$23$*bob$EXAMPLE.ORG$MSSQLSvc/db.example.org~1433*$", (HEX, 32), "$", (HEX, 200)],
    "Kerberos, TGS, AES": ["$krb5tgs$17$bob$EXAMPLE.ORG$", (HEX, 24), "$", (HEX, 200)],
    "Kerberos, timestamp": ["$krb5pa$18$bob$EXAMPLE.ORG$EXAMPLE.ORGbob$", (HEX, 104)],
    "crypt": ["$6$rounds=5000$", (ALNUM, 16), "$", (f"{ALNUM}./", 86)],
    "bcrypt": ["$2b$12$", (f"{ALNUM}./", 53)],
}
WEBHOOKS = [
    "https://hooks.slack.com/services/T01ABCDEFGH/B01ABCDEFGH/{}",
    "https://discord.com/api/webhooks/123456789012345678/{0}{0}{0}",
    "https://hooks.zapier.com/hooks/catch/{}",
    "https://x.webhook.office.com/webhookb2/{0}-{0}",
    "https://outlook.office.com/webhook/{0}-{0}",
    "https://x.tines.com/webhook/{0}{0}/{0}{0}",
]
# How many characters tokens have that must be whole, by prefix, and how many are before a mark: as vendors publish.
WHOLE = {
    17: "A3T", 22: "EAAA", 24: "ATBB s. act_", 26: "da2- API-", 27: "live_ test_", 31: "A3-",
    32: "pri_ web_ odt_ API_KEY fc- glc_ pk. key- pubkey- NF- SK", 35: "AIza AQVN live_ test_",
    36: "access-sandbox- access-development- access-production- npm_ sk_", 38: "4b1d YC", 39: "live_",
    40: "AGE-PLUGIN- ZXlK ptr_ live_", 41: "hawk. VF.", 44: "b_", 45: "api_", 48: "tk-us- sk_", 50: "AK1 AQ.",
    53: "pk. sk. tk.", 54: "EZAK EZTK", 55: "KEY y0_", 59: "cmVmd", 60: "jina_", 64: "slk_", 68: "pat. sat.",
    69: "AKCp", 80: "3MVG9 5AEP861 xai- AAAAAAAAAAAAAAAAAAAAAA", 90: "t1.", 100: "ABSK EAAC EAAM na1. eu1.", 130: "sl.",
    171: "v1.0-",
}  # fmt: skip
MARKED = {
    "APIM": 76, "+ABa": 76, "AzCa": 33, "+ACR": 42, "ACDb": 76, "AZDO": 76, "+AEh": 33, "AzFu": 44, "AIoT": 33,
    "+ARm": 33, "AzSe": 42, "+ASb": 33, "+ASt": 76, "tt-": 22, "_mmk": 29, "NRAL": 36, "-NRMA": 42,
}  # fmt: skip
# Of Vault's old tokens one in seventy has no digit, and looks like a method's name.
MAY_SURVIVE = {"Vault, before 1.10": 0.03}


def made(parts: list, rng: random.Random) -> str:
    """A random token of a form."""
    return "".join(part if isinstance(part, str) else "".join(rng.choices(part[0], k=part[1])) for part in parts)


@pytest.mark.parametrize("count", few([400, 4_000], 400))
@pytest.mark.parametrize("vendor", FORMS)
def test_random_tokens_are_redacted(vendor, count):
    """Of hundreds of tokens that stand in a sentence by themselves, none keeps its last characters."""
    rng = random.Random(vendor)
    survivors = []
    for _ in range(count // AT_ONCE):
        tokens = [made(FORMS[vendor], rng) for _ in range(AT_ONCE)]
        texts = [f"sent {token} to the host\n" for token in tokens]
        cleaned = "".join(map(scrub, texts if vendor in ALONE else ["".join(texts)]))
        survivors += [token for token in tokens if token[-8:] in cleaned and not token.endswith(("-us12", "_mmk"))]
        assert cleaned.count(" to the host\n") == AT_ONCE

    assert len(survivors) <= MAY_SURVIVE.get(vendor, 0) * count, survivors[:3]


@pytest.mark.parametrize(("head", "tail"), [("", "-us12"), ("AbC123_", "_mmk")])
def test_token_that_ends_in_its_mark_is_redacted(head, tail):
    """Where the issuer is named at the end, the characters before are the secret."""
    secret = "0123456789abcdef0123456789abcdef" if not head else "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o"

    assert secret[:12] not in scrub(f"with {head}{secret}{tail} sent")


@pytest.mark.parametrize("url", WEBHOOKS)
def test_url_of_a_webhook_is_redacted(url):
    """The path is the secret; the host stays."""
    cleaned = scrub(f"posting to {url.format('a1B2c3D4e5F6g7H8i9J0k1L2')} failed")

    assert "c3D4e5" not in cleaned
    assert ("slack.com" in cleaned) == ("slack.com" in url)


def test_ids_in_the_path_of_a_webhook_are_redacted_with_it():
    """However short its last part is."""
    assert (
        scrub("to https://hooks.slack.com/services/T1/B2/q7, ok")
        == f"to https://hooks.slack.com/services/{REDACTED}, ok"
    )


def test_rows_of_the_table_are_in_force():
    """Each row finds a token of its own length and alphabet, also behind an escaped line break."""
    alphabet = [char for char in ALNUM if char.isdigit() or char in "abcdefABCDEF"]
    for vendor in VENDORS:
        token = vendor.prefix + ("7" + "".join(random.Random(7).choices(alphabet, k=vendor.length - 1))).upper()
        if vendor.needs == "uuid":
            token = f"{vendor.prefix}{UUID(int=7)}"

        assert vendor.source, vendor
        assert scrub(f"with {token} sent") == f"with {vendor.prefix}{REDACTED} sent", vendor
        assert token[-8:] not in scrub(f"a line\\n{token}\\nanother"), vendor


@pytest.mark.parametrize("vendor", ["GitHub", "GitLab, personal", "npm", "SendGrid", "Vault"])
def test_token_that_was_cut_is_redacted(vendor):
    """Half of a token is one, too, where its prefix is no word."""
    token = made(FORMS[vendor], random.Random(1))[:24]

    assert token[-8:] not in scrub(f"sent {token}")


@pytest.mark.parametrize(
    "text",
    [
        "key-value-store-of-the-node-2026", "test_that_everything_is_fine_2026", "live_update_of_the_page_v2",
        "s.getElementsByClassNameAndTagName", "api-gateway-of-the-house-2026-11",
        "pat.name.of.a.dotted.thing.in.python3",
        "npm_config_registry_of_the_house_2", "sk-learn-model-of-the-house", "pk.primary_key_of_the_table",
        "ASIAPACIFICregion2026", "SKU0123456789", "AKIA", "ghp_", "xoxb-", "EAAA", "hf_transfer", "glc_", "sha256~",
        "git-lfs-x64-linux-2026-11-30-nightly", "us-east-1", "0123456789abcdef0123456789abcdef-user",
        "pk_customer_order_item_history_2026_11_30", "disk_test_performance", "risk_live_assessment", "xoxo-forever",
        "00D!of_a_long_text", "the dapi of the 0123456789abcdef",
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJq0123456789",
        "api-gateway-of-the-house-in-2026-11-30", "sdk-0123456789abcdef0123456789abcdef0123",
        "rzp_live_mode", "a precious cio and 0123456789abcdef0123456789abcdef",
        "the precision, at 0123456789abcdef0123456789abcdef",
        "costs $6$ or $5", "the $krb5tgs$23$ of it", "BBDC-the-name-of-a-branch", "BBDC-1234",
        "org.apache.hadoop.hdfs.server.datanode.DataNode$PacketResponder", "10.251.42.84:57069", "b_tree_of_the_index",
    ],
)  # fmt: skip
def test_words_with_a_prefix_stay(text):
    """A prefix alone, words that begin like a token, names with dots: the very same text."""
    assert scrub(text) is text
    assert scrub(f"in {text} it") == f"in {text} it"


@pytest.mark.parametrize("host", ["h.example.org/a", "bitbucket:7990", "localhost/scm"])
def test_token_with_an_at_ends_before_a_host(host):
    """As the password of a URL; its own `@`, early or late, is no such end."""
    for token in ("MDc0NTM4OTkAbcdEfghIjklMnop@zMDkzOp5Qe0kM2nSxB", "MDc0NTM4OTk@zMDkzOp5Qe0kM2nSxB+dk3J6xW8vT2yQ1"):
        assert scrub(f"sent BBDC-{token}, then") == f"sent BBDC-{REDACTED}, then"
        assert scrub(f"sent BBDC-{token}@{host}") == f"sent BBDC-{REDACTED}@{host}"
        assert scrub(f"https://bob:BBDC-{token}@{host}") == f"https://bob:{REDACTED}@{host}"
        assert scrub(f"sent BBDC-{token[:16]}") == f"sent BBDC-{REDACTED}"


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.mark)
def test_token_with_a_mark_needs_its_alphabet(mark):
    """As many characters as it has before its mark, and no other."""
    token = "a1" * (mark.length // 2) + "b" * (mark.length % 2) + mark.mark

    assert mark.source
    assert marked_at(f"x {token}", len(token) + 2) == (2, len(token) + 2)
    assert marked_at(f"x:{token[1:]}", len(token) + 1) is None
    assert scrub(f"with {token} sent") == f"with {REDACTED} sent"


def test_base64_of_a_private_key_is_redacted():
    """Of a key in PEM: what is in a Secret of Kubernetes, say; a certificate stays."""
    key = base64.b64encode(b"-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcN\n").decode()

    assert key[-24:] not in scrub(f"data: {key}")
    assert scrub(f"data: {key[:20]}") == f"data: {key[:20]}"


def test_jwt_with_a_space_in_its_header_is_redacted():
    """Its header begins with `{ "alg"`: claims and signature are replaced."""
    parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (
        b'{ "alg": "HS256" }', b'{"sub": "1234567890"}', bytes(range(32)))]  # fmt: skip
    cleaned = scrub(f"sent {'.'.join(parts)} on")

    assert parts[1][6:] not in cleaned
    assert parts[2] not in cleaned


def test_token_needs_its_alphabet():
    """What follows a prefix is checked against its row."""
    assert token_at("fc-0123456789abcdef0123456789abcdef", 3) == (3, 35)
    assert token_at("fc-0123456789abcdef0123456789abcdez", 3) is None
    assert token_at("nothing-0123456789abcdef0123456789abcdef", 8) is None
    assert token_at("key-", 4) is None


def test_token_that_may_be_a_word_must_be_whole():
    """It has as many characters as its vendor publishes; half of any other is one, too: sixteen, and no fewer."""
    whole = [(prefix, length) for length, prefixes in WHOLE.items() for prefix in prefixes.split()]
    rows = [(vendor.prefix, vendor.least) for vendor in VENDORS if vendor.needs != "uuid"]
    prefixes = [prefix for prefix, _ in rows]

    assert sorted(row for row in rows if row[1] != 16) == sorted(whole)
    for prefix, least in rows:
        token = f"{prefix}7{'A' * (least - 1)}"

        assert token_at(token, len(prefix)) == (len(prefix), len(token)), prefix
        others = sum(map(prefix.endswith, prefixes)) > 1
        assert others or token_at(token[:-1], len(prefix)) is None, prefix


def test_marks_are_behind_as_many_characters_as_published():
    """By a table of its own."""
    assert {mark.mark: mark.length for mark in MARKS} == MARKED


def test_prefix_of_four_letters_begins_a_word():
    """`xghp_` is part of a name, as one with a shorter prefix is; a longer prefix may follow other letters."""
    secret = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3hJ5"

    assert scrub(f"sent ghp_{secret}") == f"sent ghp_{REDACTED}"
    assert scrub(f"sent xghp_{secret}") == f"sent xghp_{secret}"
    assert scrub(f"sent hf_{secret}") == f"sent hf_{REDACTED}"
    assert scrub(f"sent xhf_{secret}") == f"sent xhf_{secret}"
    assert scrub(f"sent xglsa_{secret}") == f"sent xglsa_{REDACTED}"


def test_expressions_of_a_row_are_compiled_once():
    """Whatever else the program compiles meanwhile."""
    rows = vendors._characters(VENDORS[0]), vendors._before(MARKS[0])
    re.purge()

    assert vendors._characters(VENDORS[0]) is rows[0]
    assert vendors._before(MARKS[0]) is rows[1]


def test_each_pivot_has_one_branch():
    """One that is tried twice costs twice."""
    assert len({branch[: 1 + branch.startswith("\\")] for branch in BRANCHES}) == len(BRANCHES)


def test_dots_near_the_beginning_of_a_token():
    """Where its alphabet has them."""
    assert scrub("sent pscale_tkn_ab1.cd2.ef3.gh4.ij5.kL6") == f"sent pscale_tkn_{REDACTED}"
    assert scrub("sent pscale_tkn_.b1.cd2.ef3.gh4.ij5.kL6") == f"sent pscale_tkn_{REDACTED}"


def test_page_says_how_many_rows_there_are():
    """By prefix, by mark, and of how many services."""
    page, reference = ((DOCS / name).read_text("utf-8") for name in ("redaction.md", "reference.md"))
    services = len({vendor.name for vendor in VENDORS})

    counts = re.search(r"has (\d+) rows of tokens with a prefix, of (\d+) services, and (\d+) with a mark", page)
    assert counts is not None
    assert tuple(map(int, counts.groups())) == (len(VENDORS), services, len(MARKS))
    assert f"webhooks of {services} services" in reference
