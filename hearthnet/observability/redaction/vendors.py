"""How services' tokens look: a table of prefixes, alphabets and lengths, as their vendors publish them.

A row tells a token by its prefix and by the characters behind it. A prefix that is no word needs sixteen of them, so
that a token that was cut is found, too; one that could be a word, or part of one, needs as many as a whole token has,
or a digit among them. A few tokens have a mark at their end instead. Tokens of other forms have an expression in
`shapes`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal, NamedTuple

__all__ = ["MARKS", "VENDORS", "Mark", "Vendor", "marked_at", "token_at"]

HEX: Final = "0-9a-fA-F"
UPPER: Final = "0-9A-Z"
ALNUM: Final = "0-9A-Za-z"
WORD: Final = "0-9A-Za-z_-"
BASE64: Final = "0-9A-Za-z+/="
URL64: Final = "0-9A-Za-z_=-"
DOTTED: Final = "0-9A-Za-z_.=-"
DOTTED64: Final = "0-9A-Za-z_.+/=-"

_SCANNERS: Final = "no page of the vendor tells the form; expressions of public scanners do"
# To the end of the run, whatever the token's alphabet: no tail of a longer one is left.
_TOKEN: Final = re.compile(r"[\w+/=~%-]+(?:\.+[\w+/=~%-]+)*")


class Vendor(NamedTuple):
    """A kind of token.

    Attributes:
        name: of the service.
        prefix: with which the token begins. It stays: it names the issuer.
        alphabet: of the characters behind the prefix, as a set of a regular expression.
        source: the page of the vendor's documentation, or the scanners of source code whose expressions agree.
        least: how many of these must follow; all that a token has where fewer could be a word's.
        needs: "digit" where they must include one; "uuid" where they have the form of one, but any letters.
    """

    name: str
    prefix: str
    alphabet: str
    source: str
    least: int = 16
    needs: Literal["", "digit", "uuid"] = ""


VENDORS: Final = (
    Vendor("1Password", "A3-", UPPER + "-", "About your Secret Key", 31),
    Vendor("1Password", "ops_ey", BASE64, "Service account tokens"),
    Vendor("Adafruit IO", "aio_", ALNUM, "Adafruit IO HTTP API, authentication"),
    Vendor("Adobe", "p8e-", WORD, "OAuth Server-to-Server credentials"),
    Vendor("age", "AGE-SECRET-KEY-1", UPPER, "age file format, C2SP"),
    Vendor("age", "AGE-PLUGIN-", UPPER + "-", "age plugin protocol, C2SP", 40),
    Vendor("Aiven", "AVNS_", WORD, "Aiven service credentials"),
    Vendor("Alchemy", "alcht_", ALNUM, "Alchemy auth tokens"),
    Vendor("Alibaba Cloud", "LTAI", ALNUM, "AccessKey pair"),
    Vendor("Amazon Bedrock", "ABSK", BASE64, "Amazon Bedrock API keys, long-term", 100),
    Vendor("Amazon Bedrock", "bedrock-api-key-", BASE64, "Amazon Bedrock API keys, short-term"),
    Vendor("Amazon Web Services", "AKIA", UPPER, "IAM unique identifiers"),
    Vendor("Amazon Web Services", "ASIA", UPPER, "IAM unique identifiers"),
    Vendor("Amazon Web Services", "ABIA", UPPER, "IAM unique identifiers"),
    Vendor("Amazon Web Services", "ACCA", UPPER, "IAM unique identifiers"),
    Vendor("Amazon Web Services", "A3T", UPPER, "IAM unique identifiers", 17),
    Vendor("Amazon Web Services", "amzn.mws.", HEX + "-", "Marketplace Web Service, auth tokens"),
    Vendor("Amazon Web Services", "da2-", ALNUM, "AppSync API keys", 26),
    Vendor("Anthropic, OpenAI, DeepSeek, OpenRouter", "sk-", WORD, "API keys", needs="digit"),
    Vendor("any", "ZXlK", BASE64 + "_-", "RFC 7519: a JWT in base64", 40),
    Vendor("Apify", "apify_api_", WORD, "API tokens"),
    Vendor("Artifactory", "AKCp", ALNUM, "JFrog API keys", 69),
    Vendor("Artifactory", "cmVmd", ALNUM, "JFrog reference tokens", 59),
    Vendor("Atlassian", "ATATT", BASE64 + "_-", "Atlassian API tokens"),
    Vendor("Atlassian", "ATCTT", BASE64 + "_-", "Atlassian access tokens"),
    Vendor("Atlassian Bitbucket", "ATBB", URL64, "App passwords", 24),
    Vendor("Bannerbear", "bb_pr_", HEX, "API keys"),
    Vendor("Bannerbear", "bb_ma_", HEX, "API keys"),
    Vendor("Beamer", "b_", URL64, "Beamer API", 44),
    Vendor("BestTime", "pri_", HEX, "API keys", 32),
    Vendor("Brevo", "xkeysib-", WORD, "API keys"),
    Vendor("Brevo", "xsmtpsib-", WORD, "SMTP keys"),
    Vendor("Buildkite", "bkua_", ALNUM, "API access tokens"),
    Vendor("Checkout.com", "sk_", HEX + "-", "Secret keys", 36),
    Vendor("CircleCI", "CCIPAT_", WORD, "Managing API tokens"),
    Vendor("ClickHouse Cloud", "4b1d", ALNUM, "Managing API keys", 38),
    Vendor("Clojars", "CLOJARS_", ALNUM, "Deploy tokens"),
    Vendor("Close", "api_", ALNUM + ".", "API keys", 45, needs="digit"),
    Vendor("Cloudflare", "v1.0-", HEX + "-", "Origin CA keys"),
    Vendor("Cloudflare", "v1.0-", ALNUM + "-", "Origin CA keys", 171),
    Vendor("Cloudflare", "cfat_", ALNUM, "API token formats"),
    Vendor("Cloudflare", "cfut_", ALNUM, "API token formats"),
    Vendor("Cloudflare", "cfk_", ALNUM, "API token formats"),
    Vendor("Column", "live_", ALNUM, "API keys", 27, needs="digit"),
    Vendor("Column", "test_", ALNUM, "API keys", 27, needs="digit"),
    Vendor("Contentful", "CFPAT-", WORD, "Content Management API, authentication"),
    Vendor("Datadog", "ddapp_", ALNUM, "API and application keys"),
    Vendor("Defined Networking", "dnkey-", URL64, "API keys"),
    Vendor("dfuse", "web_", ALNUM, "API keys", 32, needs="digit"),
    Vendor("Deno", "ddp_", ALNUM, "Deploy access tokens"),
    Vendor("Deno", "ddw_", ALNUM, "Deploy access tokens"),
    Vendor("Dependency-Track", "odt_", ALNUM, "API keys", 32),
    Vendor("DigitalOcean", "doo_v1_", HEX, "OAuth API"),
    Vendor("DigitalOcean", "dop_v1_", HEX, "Personal access tokens"),
    Vendor("DigitalOcean", "dor_v1_", HEX, "OAuth API, refresh tokens"),
    Vendor("Docker", "dckr_pat_", WORD, "Personal access tokens"),
    Vendor("Docker", "dckr_oat_", WORD, "Organization access tokens"),
    Vendor("Doppler", "dp.pt.", ALNUM, "Token formats"),
    Vendor("Doppler", "dp.ct.", ALNUM, "Token formats"),
    Vendor("Doppler", "dp.sa.", ALNUM, "Token formats"),
    Vendor("Doppler", "dp.scim.", ALNUM, "Token formats"),
    Vendor("Doppler", "dp.audit.", ALNUM, "Token formats"),
    Vendor("Dropbox", "sl.", DOTTED, "OAuth guide", 130),
    Vendor("Dropbox", "sl.u.", DOTTED, "OAuth guide"),
    Vendor("Duffel", "duffel_test_", URL64, "Access tokens"),
    Vendor("Duffel", "duffel_live_", URL64, "Access tokens"),
    Vendor("EasyPost", "EZAK", ALNUM, "API keys", 54),
    Vendor("EasyPost", "EZTK", ALNUM, "API keys", 54),
    Vendor("EcoStruxure IT", "AK1", ALNUM + "/", "API keys", 50),
    Vendor("ElevenLabs, Mistral", "sk_", HEX, "API keys", 48),
    Vendor("Endor Labs", "endr+", WORD, "API keys"),
    Vendor("Facebook", "EAAC", ALNUM, "Access tokens", 100),
    Vendor("Facebook", "EAAM", ALNUM, "Access tokens", 100),
    Vendor("Facebook", "EAACEdEose0cBA", ALNUM, "Access tokens of the Graph API Explorer"),
    Vendor("Figma", "figd_", WORD, "Personal access tokens"),
    Vendor("Figma", "figo_", WORD, "OAuth tokens"),
    Vendor("Figma", "figu_", WORD, "OAuth tokens"),
    Vendor("Figma", "figur_", WORD, _SCANNERS),
    Vendor("Figma", "figor_", WORD, _SCANNERS),
    Vendor("Figma", "figuh_", WORD, _SCANNERS),
    Vendor("Figma", "figoh_", WORD, _SCANNERS),
    Vendor("Figma", "figp_", URL64, "Plan access tokens"),
    Vendor("Finage", "API_KEY", UPPER, "API keys", 32),
    Vendor("Firecrawl", "fc-", HEX, "API keys", 32),
    Vendor("Fleetbase", "flb_live_", ALNUM, "API credentials"),
    Vendor("Fleetbase", "flb_test_", ALNUM, "API credentials"),
    Vendor("Flexport", "shltm_", WORD, "Logistics API tokens"),
    Vendor("Flutterwave", "FLWSECK-", ALNUM, "API keys"),
    Vendor("Fly.io", "fo1_", WORD, "Access tokens"),
    Vendor("Fly.io", "fm1r_", BASE64, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm1a_", BASE64, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm2_", BASE64, "Access tokens, macaroons"),
    Vendor("Frame.io", "fio-u-", URL64, "Developer tokens"),
    Vendor("FullStory", "na1.", BASE64, "API keys", 100),
    Vendor("FullStory", "eu1.", BASE64, "API keys", 100),
    Vendor("GitHub", "ghp_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitHub", "gho_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitHub", "ghu_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitHub", "ghs_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitHub", "ghr_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitHub", "github_pat_", ALNUM + "_", "GitHub's token formats"),
    Vendor("GitLab", "glpat-", URL64, "Token prefixes"),
    Vendor("GitLab", "gldt-", WORD, "Token prefixes"),
    Vendor("GitLab", "glrt-", WORD, "Token prefixes"),
    Vendor("GitLab", "glrtr-", WORD, "Token prefixes"),
    Vendor("GitLab", "glcbt-", WORD, "Token prefixes"),
    Vendor("GitLab", "glptt-", WORD, "Token prefixes"),
    Vendor("GitLab", "glft-", WORD, "Token prefixes"),
    Vendor("GitLab", "glimt-", WORD, "Token prefixes"),
    Vendor("GitLab", "glagent-", WORD, "Token prefixes"),
    Vendor("GitLab", "gloas-", WORD, "Token prefixes"),
    Vendor("GitLab", "glsoat-", WORD, "Token prefixes"),
    Vendor("GitLab", "glffct-", WORD, "Token prefixes"),
    Vendor("GitLab", "glwt-", WORD, "Token prefixes"),
    Vendor("GitLab", "GR1348941", WORD, "Token prefixes"),
    Vendor("GoCardless", "live_", URL64, "Access tokens", 40),
    Vendor("Google", "AIza", WORD, "API keys", 35),
    Vendor("Google", "GOCSPX-", WORD, "OAuth client secrets"),
    Vendor("Google", "ya29.", WORD, "OAuth access tokens"),
    Vendor("Grafana", "glc_", BASE64, "Access policy tokens", 32),
    Vendor("Grafana", "glsa_", ALNUM + "_", "Service account tokens"),
    Vendor("Grafana", "eyJrIjoi", BASE64, "API keys"),
    Vendor("Groq", "gsk_", ALNUM, "API keys"),
    Vendor("Harness", "pat.", DOTTED, "API keys", 68),
    Vendor("Harness", "sat.", DOTTED, "API keys", 68),
    Vendor("HashiCorp Vault", "s.", ALNUM, "Tokens before 1.10", 24, needs="digit"),
    Vendor("HashiCorp Vault", "hvs.", WORD, "Tokens"),
    Vendor("HashiCorp Vault", "hvb.", WORD, "Batch tokens"),
    Vendor("HashiCorp Vault", "hvr.", WORD, "Recovery tokens"),
    Vendor("Heroku", "HRKU-", WORD, "Platform API, authentication"),
    Vendor("Highnote, Lob", "live_", HEX, "API keys", 35),
    Vendor("Highnote, Lob", "test_", HEX, "API keys", 35),
    Vendor("HubSpot", "pat-na1-", ALNUM + "-", "Private apps"),
    Vendor("HubSpot", "pat-eu1-", ALNUM + "-", "Private apps"),
    Vendor("Hugging Face", "hf_", ALNUM, "User access tokens"),
    Vendor("Hugging Face", "api_org_", ALNUM, "Organization API tokens"),
    Vendor("Infracost", "ico-", ALNUM, "Environment variables"),
    Vendor("Intra 42", "s-s4t2ud-", HEX, "API applications"),
    Vendor("Intra 42", "s-s4t2af-", HEX, "API applications"),
    Vendor("Intra 42", "u-s4t2ud-", HEX, "API applications"),
    Vendor("Intra 42", "u-s4t2af-", HEX, "API applications"),
    Vendor("Jina", "jina_", ALNUM, "API keys", 60),
    Vendor("LangChain", "lsv2_pt_", HEX + "_", "LangSmith API keys"),
    Vendor("LangChain", "lsv2_sk_", HEX + "_", "LangSmith API keys"),
    Vendor("Langfuse", "pk-lf-", HEX + "-", "API keys"),
    Vendor("LaunchDarkly", "sdk-", "0-9a-z-", "SDK keys", needs="uuid"),
    Vendor("LaunchDarkly", "mob-", "0-9a-z-", "Mobile keys", needs="uuid"),
    Vendor("LaunchDarkly", "api-", "0-9a-z-", "API access tokens", needs="uuid"),
    Vendor("Linear", "lin_api_", ALNUM + "_", "API keys"),
    Vendor("Linear", "lin_oauth_", ALNUM, "OAuth"),
    Vendor("Lob", "live_pub_", HEX, "Publishable keys"),
    Vendor("Lob", "test_pub_", HEX, "Publishable keys"),
    Vendor("LocationIQ", "pk.", ALNUM + "-", "Access tokens", 32, needs="digit"),
    Vendor("Mailgun", "key-", ALNUM, "API keys", 32, needs="digit"),
    Vendor("Mailgun", "pubkey-", HEX, "API keys", 32),
    Vendor("Mapbox", "pk.", DOTTED64, _SCANNERS, 53, needs="digit"),
    Vendor("Mapbox", "sk.", DOTTED64, _SCANNERS, 53, needs="digit"),
    Vendor("Mapbox", "tk.", DOTTED64, _SCANNERS, 53, needs="digit"),
    Vendor("Mercury", "secret-token:", WORD, "RFC 8959"),
    Vendor("Netlify", "nfp_", ALNUM + "_", "Personal access tokens"),
    Vendor("New Relic", "NRAA-", HEX, "API keys"),
    Vendor("New Relic", "NRAK-", UPPER + "a-z", "API keys"),
    Vendor("New Relic", "NRII-", WORD, "API keys"),
    Vendor("New Relic", "NRIQ-", WORD, "API keys"),
    Vendor("New Relic", "NRRA-", HEX, "API keys"),
    Vendor("New Relic", "NRJS-", HEX, "API keys"),
    Vendor("New Relic", "NRBR-", HEX, "API keys"),
    *(
        Vendor("New Relic, in small letters", prefix, WORD, _SCANNERS)
        for prefix in ("nrak-", "nraa-", "nrii-", "nriq-", "nrra-")
    ),
    Vendor("New Relic", "px-dep-", HEX + "-", "Pixie deploy keys"),
    Vendor("New Relic", "px-api-", HEX + "-", "Pixie API keys"),
    Vendor("Nightfall", "NF-", ALNUM, "API keys", 32, needs="digit"),
    Vendor("Notion", "ntn_", ALNUM, "API keys"),
    Vendor("Notion before 2024, ConvertAPI, Stripe", "secret_", ALNUM, "API keys; client secrets", needs="digit"),
    Vendor("npm", "npm_", ALNUM, "About access tokens"),
    Vendor("npm", "npm_", ALNUM + "_", _SCANNERS, 36, needs="digit"),
    Vendor("NVIDIA", "nvapi-", WORD, "API keys"),
    Vendor("Octopus Deploy", "API-", UPPER, "API keys", 26),
    Vendor("OpenShift", "sha256~", WORD, "Authentication"),
    Vendor("Pagar.me", "ak_live_", ALNUM, "API keys"),
    Vendor("Pagar.me", "ak_test_", ALNUM, "API keys", needs="digit"),
    Vendor("Perplexity", "pplx-", ALNUM, "API keys"),
    Vendor("pganalyze", "pgar_", ALNUM, "API keys"),
    Vendor("Pinecone", "pcsk_", ALNUM + "_", "API keys"),
    Vendor("Plaid", "access-sandbox-", HEX + "-", "Tokens", 36),
    Vendor("Plaid", "access-development-", HEX + "-", "Tokens", 36),
    Vendor("Plaid", "access-production-", HEX + "-", "Tokens", 36),
    Vendor("PlanetScale", "pscale_tkn_", DOTTED, "Service tokens"),
    Vendor("PlanetScale", "pscale_oauth_", DOTTED, "OAuth"),
    Vendor("PlanetScale", "pscale_pw_", DOTTED, "Connection strings"),
    Vendor("Portainer", "ptr_", BASE64 + "_-", "API access tokens", 40, needs="digit"),
    Vendor("PostHog", "phx_", ALNUM + "_", "Personal API keys"),
    Vendor("PostHog", "phc_", ALNUM + "_", "Project API keys"),
    Vendor("Postman", "PMAK-", ALNUM + "-", "API keys"),
    Vendor("Prefect", "pnu_", ALNUM, "API keys"),
    Vendor("Prefect", "pnb_", ALNUM, "API keys"),
    Vendor("PubNub", "pub-c-", ALNUM + "-", "Keysets"),
    Vendor("PubNub", "sec-c-", ALNUM, "Keysets"),
    Vendor("PubNub", "sub-c-", ALNUM + "-", "Keysets"),
    Vendor("Pulumi", "pul-", ALNUM, "Access tokens"),
    Vendor("PyPI", "pypi-", WORD, "API tokens"),
    Vendor("Ramp", "ramp_id_", ALNUM, "Developer API"),
    Vendor("Ramp", "ramp_sec_", ALNUM, "Developer API"),
    Vendor("ReadMe", "rdme_", ALNUM, "API keys"),
    Vendor("Replicate", "r8_", WORD, "API tokens"),
    Vendor("Rootly", "rootly_", HEX, "API keys"),
    Vendor("RubyGems", "rubygems_", ALNUM, "API keys"),
    Vendor("SaladCloud", "salad_cloud_", ALNUM + "_", "API keys"),
    Vendor("Salesforce", "3MVG9", BASE64 + "._", "Connected apps", 80),
    Vendor("Salesforce", "5AEP861", BASE64 + "._", "OAuth refresh tokens", 80),
    Vendor("Scalingo", "tk-us-", WORD, "API tokens", 48),
    Vendor("SendGrid", "SG.", DOTTED, "API keys"),
    Vendor("Sentry", "sntrys_", BASE64 + "_", "Organization tokens"),
    Vendor("Sentry", "sntryu_", HEX, "User tokens"),
    Vendor("SettleMint", "sm_aat_", ALNUM, "Access tokens"),
    Vendor("SettleMint", "sm_pat_", ALNUM, "Access tokens"),
    Vendor("SettleMint", "sm_sat_", ALNUM, "Access tokens"),
    Vendor("Shippo", "shippo_live_", HEX, "API tokens"),
    Vendor("Shippo", "shippo_test_", HEX, "API tokens"),
    Vendor("Shopify", "shpat_", ALNUM, "Access tokens"),
    Vendor("Shopify", "shpca_", ALNUM, "Access tokens"),
    Vendor("Shopify", "shppa_", ALNUM, "Access tokens"),
    Vendor("Shopify", "shpss_", ALNUM, "Shared secrets"),
    Vendor("Slack", "xapp-", "+/" + WORD, "Token types"),
    Vendor("Smooch", "act_", ALNUM, _SCANNERS, 24, needs="digit"),
    Vendor("SonarQube", "squ_", HEX, "User tokens"),
    Vendor("SonarQube", "sqp_", HEX, "Project tokens"),
    Vendor("SonarQube", "sqa_", HEX, "Global tokens"),
    Vendor("SonarQube", "sqco_", ALNUM, "Scoped organization tokens"),
    Vendor("Sourcegraph", "sgp_", ALNUM + "_", "Access tokens"),
    Vendor("Sourcegraph", "slk_", HEX, "License keys", 64),
    Vendor("Spectral", "spu-", ALNUM, "Personal API keys"),
    Vendor("Spectral", "spo-", ALNUM, "Organization API keys"),
    Vendor("Square", "EAAA", BASE64 + "_-", "Access tokens", 22),
    Vendor("StackHawk", "hawk.", DOTTED, "API keys", 41, needs="digit"),
    Vendor("Stripe, Svix", "whsec_", BASE64, "Webhook signatures"),
    Vendor("Supabase", "sbp_", ALNUM, "Access tokens"),
    Vendor("Supabase", "sb_secret_", WORD, "API keys"),
    Vendor("Tailscale", "tskey-", WORD, "Key prefixes"),
    Vendor("Tavily", "tvly-", WORD, "API keys"),
    Vendor("Teamwork", "tkn.v1_", ALNUM + "=", "API tokens"),
    Vendor("Telnyx", "KEY", ALNUM + "_", "API keys", 55, needs="digit"),
    Vendor("Terraform Cloud", ".atlasv1.", URL64, "API tokens"),
    Vendor("Together, xAI", "xai-", ALNUM + "_", "API keys", 80),
    Vendor("TruffleHog", "thog-secret-", HEX, "Enterprise scanners"),
    Vendor("TruffleHog", "thog-key-", HEX, "Enterprise scanners"),
    Vendor("Twilio", "SK", HEX, "Twilio API keys", 32),
    Vendor("Twitch", "live_", ALNUM + "_", "Stream keys", 39, needs="digit"),
    Vendor("Typeform", "tfp_", DOTTED, "Personal access tokens"),
    Vendor("Ubidots", "BBFF-", ALNUM, "API tokens"),
    Vendor("Vercel", "vcp_", ALNUM, "Access tokens"),
    Vendor("Vercel", "vci_", ALNUM, "Access tokens"),
    Vendor("Vercel", "vca_", ALNUM, "Access tokens"),
    Vendor("Vercel", "vck_", ALNUM, "AI Gateway API keys"),
    Vendor("Vercel", "vcr_", ALNUM, "Refresh tokens"),
    Vendor("Voiceflow", "VF.", ALNUM + ".", "API keys", 41),
    Vendor("Weights & Biases", "wandb_v1_", WORD, "API keys"),
    Vendor("X", "AAAAAAAAAAAAAAAAAAAAAA", ALNUM + "%", "OAuth 2.0 bearer tokens", 80),
    Vendor("Yandex", "t1.", DOTTED, "IAM tokens", 90),
    Vendor("Yandex", "AQVN", WORD, "API keys", 35),
    Vendor("Yandex", "YC", WORD, "Static access keys", 38),
    Vendor("Yandex", "y0_", WORD, "OAuth tokens", 55),
)


class Mark(NamedTuple):
    """A kind of token that has a mark at its end, or a few characters before that.

    Attributes:
        name: of the service.
        mark: what it ends with.
        alphabet: of the characters before the mark, as a set of a regular expression.
        length: how many these are.
        source: the page of the vendor's documentation, or the scanners of source code whose expressions agree.
    """

    name: str
    mark: str
    alphabet: str
    length: int
    source: str


_AZURE: Final = "Microsoft's identifiable secrets"
MARKS: Final = (
    Mark("Azure API Management", "APIM", ALNUM + "+/", 76, _AZURE),
    Mark("Azure Batch", "+ABa", ALNUM + "+/", 76, _AZURE),
    Mark("Azure Cache for Redis", "AzCa", ALNUM, 33, _AZURE),
    Mark("Azure Container Registry", "+ACR", ALNUM + "+/", 42, _AZURE),
    Mark("Azure Cosmos DB", "ACDb", ALNUM + "+/", 76, _AZURE),
    Mark("Azure DevOps", "AZDO", ALNUM, 76, _AZURE),
    Mark("Azure Event Hubs", "+AEh", ALNUM + "+/", 33, _AZURE),
    Mark("Azure Functions", "AzFu", WORD, 44, _AZURE),
    Mark("Azure IoT", "AIoT", ALNUM + "+/", 33, _AZURE),
    Mark("Azure Relay", "+ARm", ALNUM + "+/", 33, _AZURE),
    Mark("Azure Search", "AzSe", ALNUM, 42, _AZURE),
    Mark("Azure Service Bus", "+ASb", ALNUM + "+/", 33, _AZURE),
    Mark("Azure Storage", "+ASt", ALNUM + "+/", 76, _AZURE),
    Mark("Storyblok", "tt-", ALNUM, 22, _SCANNERS),
    Mark("MaxMind", "_mmk", ALNUM, 29, "License keys"),
    Mark("New Relic", "NRAL", ALNUM, 36, "License keys"),
    Mark("New Relic", "-NRMA", ALNUM, 42, "Mobile app tokens"),
)


def token_at(text: str, start: int) -> tuple[int, int] | None:
    """Returns the span of the token that begins here, behind its prefix; None if it is none of the table's."""
    for width in range(2, min(start, _LONGEST) + 1):
        for vendor in _BY_PREFIX.get(text[start - width : start], ()):
            if _characters(vendor).match(text, start) is not None:
                token = _TOKEN.match(text, start)
                return None if token is None else token.span()
    return None


def marked_at(text: str, end: int) -> tuple[int, int] | None:
    """Returns the span of the token whose mark ends here; None if there is none."""
    for mark in MARKS:
        at = end - len(mark.mark)
        if text.endswith(mark.mark, 0, end) and _before(mark).match(text, at - mark.length, at) is not None:
            token = _TOKEN.match(text, at - mark.length)
            return None if token is None else token.span()
    return None


@cache
def _characters(vendor: Vendor) -> re.Pattern[str]:
    if vendor.needs == "uuid":
        return re.compile(r"[0-9A-Za-z]{8}-(?:[0-9A-Za-z]{4}-){3}[0-9A-Za-z]{12}(?!\w)")
    digit = rf"(?=[{vendor.alphabet.removeprefix('0-9')}]{{0,64}}+\d)" if vendor.needs == "digit" else ""
    return re.compile(rf"{digit}[{vendor.alphabet}]{{{vendor.least}}}")


@cache
def _before(mark: Mark) -> re.Pattern[str]:
    return re.compile(rf"[{mark.alphabet}]{{{mark.length}}}")


_LONGEST: Final = max(len(vendor.prefix) for vendor in VENDORS)
_BY_PREFIX: Final[dict[str, list[Vendor]]] = {}
for _vendor in VENDORS:
    _BY_PREFIX.setdefault(_vendor.prefix, []).append(_vendor)
