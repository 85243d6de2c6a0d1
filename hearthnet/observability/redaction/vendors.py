"""How services' tokens look: a table of prefixes, alphabets and lengths, as their vendors publish them.

A row tells a token by its prefix and by the characters behind it. A prefix that is no word needs sixteen of them (fewer
where the token is shorter), so that a token that was cut is found, too; one that could be a word, or part of one, needs
as many as a whole token has, or a digit among them. Tokens of other forms have an expression in `shapes`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal, NamedTuple

__all__ = ["VENDORS", "Vendor", "token_at"]

HEX: Final = "0-9a-fA-F"
UPPER: Final = "0-9A-Z"
ALNUM: Final = "0-9A-Za-z"
WORD: Final = "0-9A-Za-z_-"
BASE64: Final = "0-9A-Za-z+/="
URL64: Final = "0-9A-Za-z_=-"
DOTTED: Final = "0-9A-Za-z_.=-"

_MIN_TOKEN_CHARS: Final = 16  # behind a prefix that is no word; a token may have been cut
# To the end of the run, whatever the token's alphabet: no tail of a longer one is left.
_TOKEN: Final = re.compile(r"[\w+/=~%-]+(?:\.+[\w+/=~%-]+)*")


class Vendor(NamedTuple):
    """A kind of token.

    Attributes:
        name: of the service.
        prefix: with which the token begins. It stays: it names the issuer.
        alphabet: of the characters behind the prefix, as a set of a regular expression.
        length: how many of these a token has at least.
        source: the page of the vendor's documentation.
        needs: "whole" where fewer characters could be a word's, "digit" where they must include one, or both.
    """

    name: str
    prefix: str
    alphabet: str
    length: int
    source: str
    needs: Literal["", "digit", "whole", "whole with a digit"] = ""

    @property
    def least(self) -> int:
        """How many characters of the alphabet must follow."""
        return self.length if self.needs.startswith("whole") else min(self.length, _MIN_TOKEN_CHARS)


VENDORS: Final = (
    Vendor("1Password", "A3-", UPPER + "-", 31, "About your Secret Key", "whole"),
    Vendor("1Password", "ops_eyJ", BASE64, 250, "Service account tokens"),
    Vendor("Adafruit IO", "aio_", ALNUM, 28, "Adafruit IO HTTP API, authentication"),
    Vendor("Adobe", "p8e-", ALNUM, 32, "OAuth Server-to-Server credentials"),
    Vendor("age", "AGE-SECRET-KEY-1", UPPER, 58, "age file format, C2SP"),
    Vendor("age", "AGE-PLUGIN-", UPPER + "-", 40, "age plugin protocol, C2SP", "whole"),
    Vendor("Aiven", "AVNS_", WORD, 19, "Aiven service credentials"),
    Vendor("Alchemy", "alcht_", ALNUM, 30, "Alchemy auth tokens"),
    Vendor("Alibaba Cloud", "LTAI", ALNUM, 16, "AccessKey pair", "whole"),
    Vendor("Anthropic, OpenAI, DeepSeek, OpenRouter", "sk-", WORD, 32, "API keys", "digit"),
    Vendor("Apify", "apify_api_", ALNUM, 36, "API tokens"),
    Vendor("Atlassian", "ATATT3", URL64, 60, "Atlassian API tokens", "whole"),
    Vendor("Atlassian", "ATCTT3", URL64, 60, "Atlassian access tokens", "whole"),
    Vendor("Atlassian Bitbucket", "ATBB", ALNUM, 32, "App passwords", "whole"),
    Vendor("Amazon Bedrock", "ABSK", BASE64, 100, "Amazon Bedrock API keys, long-term", "whole"),
    Vendor("Amazon Bedrock", "bedrock-api-key-", BASE64, 28, "Amazon Bedrock API keys, short-term"),
    Vendor("Amazon Web Services", "AKIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ASIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ABIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ACCA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "A3T", UPPER, 17, "IAM unique identifiers", "whole"),
    Vendor("Artifactory", "AKCp", ALNUM, 69, "JFrog API keys", "whole"),
    Vendor("Artifactory", "cmVmd", ALNUM, 59, "JFrog reference tokens", "whole"),
    Vendor("Beamer", "b_", URL64, 44, "Beamer API", "whole"),
    Vendor("Brevo", "xkeysib-", WORD, 81, "API keys"),
    Vendor("Brevo", "xsmtpsib-", WORD, 81, "SMTP keys"),
    Vendor("Buildkite", "bkua_", HEX, 40, "API access tokens"),
    Vendor("CircleCI", "CCIPAT_", WORD, 63, "Managing API tokens"),
    Vendor("ClickHouse Cloud", "4b1d", ALNUM, 38, "Managing API keys", "whole"),
    Vendor("Clojars", "CLOJARS_", ALNUM, 60, "Deploy tokens"),
    Vendor("Cloudflare", "v1.0-", HEX + "-", 171, "Origin CA keys"),
    Vendor("Cloudflare", "cfat_", ALNUM, 48, "API token formats"),
    Vendor("Cloudflare", "cfut_", ALNUM, 48, "API token formats"),
    Vendor("Contentful", "CFPAT-", WORD, 43, "Content Management API, authentication"),
    Vendor("Datadog", "ddapp_", ALNUM, 34, "API and application keys"),
    Vendor("Defined Networking", "dnkey-", URL64, 79, "API keys"),
    Vendor("Twilio", "SK", HEX, 32, "Twilio API keys", "whole"),
    Vendor("DigitalOcean", "doo_v1_", HEX, 64, "OAuth API"),
    Vendor("DigitalOcean", "dop_v1_", HEX, 64, "Personal access tokens"),
    Vendor("DigitalOcean", "dor_v1_", HEX, 64, "OAuth API, refresh tokens"),
    Vendor("Docker", "dckr_pat_", WORD, 27, "Personal access tokens"),
    Vendor("Docker", "dckr_oat_", WORD, 32, "Organization access tokens"),
    Vendor("Doppler", "dp.pt.", ALNUM, 40, "Token formats"),
    Vendor("Doppler", "dp.ct.", ALNUM, 40, "Token formats"),
    Vendor("Doppler", "dp.sa.", ALNUM, 40, "Token formats"),
    Vendor("Doppler", "dp.scim.", ALNUM, 40, "Token formats"),
    Vendor("Doppler", "dp.audit.", ALNUM, 40, "Token formats"),
    Vendor("Dropbox", "sl.", DOTTED, 130, "OAuth guide", "whole"),
    Vendor("Duffel", "duffel_test_", URL64, 43, "Access tokens"),
    Vendor("Duffel", "duffel_live_", URL64, 43, "Access tokens"),
    Vendor("Dynatrace", "dt0c01.", ALNUM + ".", 89, "Access token format"),
    Vendor("Dynatrace", "dt0s16.", ALNUM + ".", 72, "Access token format"),
    Vendor("EasyPost", "EZAK", ALNUM, 54, "API keys", "whole"),
    Vendor("EasyPost", "EZTK", ALNUM, 54, "API keys", "whole"),
    Vendor("ElevenLabs, Mistral", "sk_", HEX, 48, "API keys", "whole"),
    Vendor("Facebook", "EAAC", ALNUM, 100, "Access tokens", "whole"),
    Vendor("Facebook", "EAAM", ALNUM, 100, "Access tokens", "whole"),
    Vendor("Figma", "figd_", WORD, 40, "Personal access tokens"),
    Vendor("Fly.io", "fo1_", WORD, 43, "Access tokens"),
    Vendor("Fly.io", "fm1r_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm1a_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm2_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Frame.io", "fio-u-", URL64, 64, "Developer tokens"),
    Vendor("GitHub", "ghp_", ALNUM, 36, "GitHub's token formats"),
    Vendor("GitHub", "gho_", ALNUM, 36, "GitHub's token formats"),
    Vendor("GitHub", "ghu_", ALNUM, 36, "GitHub's token formats"),
    Vendor("GitHub", "ghs_", ALNUM, 36, "GitHub's token formats"),
    Vendor("GitHub", "ghr_", ALNUM, 36, "GitHub's token formats"),
    Vendor("GitHub", "github_pat_", ALNUM + "_", 82, "GitHub's token formats"),
    Vendor("GitLab", "glpat-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "gldt-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glrt-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glrtr-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glcbt-", WORD, 22, "Token prefixes"),
    Vendor("GitLab", "glptt-", WORD, 40, "Token prefixes"),
    Vendor("GitLab", "glft-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glimt-", WORD, 25, "Token prefixes"),
    Vendor("GitLab", "glagent-", WORD, 50, "Token prefixes"),
    Vendor("GitLab", "gloas-", WORD, 64, "Token prefixes"),
    Vendor("GitLab", "glsoat-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glffct-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "glwt-", WORD, 20, "Token prefixes"),
    Vendor("GitLab", "GR1348941", WORD, 20, "Token prefixes"),
    Vendor("GoCardless", "live_", URL64, 40, "Access tokens", "whole"),
    Vendor("Google", "AIza", WORD, 35, "API keys", "whole"),
    Vendor("Google", "GOCSPX-", WORD, 28, "OAuth client secrets"),
    Vendor("Google", "ya29.", WORD, 60, "OAuth access tokens"),
    Vendor("Grafana", "glc_", BASE64, 32, "Access policy tokens", "whole"),
    Vendor("Grafana", "glsa_", ALNUM + "_", 41, "Service account tokens"),
    Vendor("Grafana", "eyJrIjoi", BASE64, 60, "API keys"),
    Vendor("Groq", "gsk_", ALNUM, 52, "API keys"),
    Vendor("Harness", "pat.", DOTTED, 68, "API keys", "whole"),
    Vendor("Harness", "sat.", DOTTED, 68, "API keys", "whole"),
    Vendor("HashiCorp Vault", "s.", ALNUM, 24, "Tokens before 1.10", "whole with a digit"),
    Vendor("HashiCorp Vault", "hvs.", WORD, 24, "Tokens"),
    Vendor("HashiCorp Vault", "hvb.", WORD, 100, "Batch tokens"),
    Vendor("HashiCorp Vault", "hvr.", WORD, 24, "Recovery tokens"),
    Vendor("Heroku", "HRKU-", WORD, 36, "Platform API, authentication"),
    Vendor("Highnote, Lob", "live_", HEX, 35, "API keys", "whole"),
    Vendor("Highnote, Lob", "test_", HEX, 35, "API keys", "whole"),
    Vendor("Lob", "live_pub_", HEX, 31, "Publishable keys"),
    Vendor("Lob", "test_pub_", HEX, 31, "Publishable keys"),
    Vendor("Hugging Face", "hf_", ALNUM, 34, "User access tokens"),
    Vendor("Hugging Face", "api_org_", ALNUM, 34, "Organization API tokens"),
    Vendor("Infracost", "ico-", ALNUM, 32, "Environment variables"),
    Vendor("Intra 42", "s-s4t2ud-", HEX, 64, "API applications"),
    Vendor("Intra 42", "s-s4t2af-", HEX, 64, "API applications"),
    Vendor("LangChain", "lsv2_pt_", HEX + "_", 43, "LangSmith API keys"),
    Vendor("LangChain", "lsv2_sk_", HEX + "_", 43, "LangSmith API keys"),
    Vendor("Linear", "lin_api_", ALNUM, 40, "API keys"),
    Vendor("Linear", "lin_oauth_", ALNUM, 40, "OAuth"),
    Vendor("LaunchDarkly", "sdk-", HEX + "-", 36, "SDK keys", "whole"),
    Vendor("LaunchDarkly", "mob-", HEX + "-", 36, "Mobile keys", "whole"),
    Vendor("LaunchDarkly", "api-", HEX + "-", 36, "API access tokens", "whole"),
    Vendor("Mailgun", "key-", HEX, 32, "API keys", "whole"),
    Vendor("Mailgun", "pubkey-", HEX, 32, "API keys", "whole"),
    Vendor("Mapbox", "pk.", DOTTED, 80, "Access tokens", "whole"),
    Vendor("Mapbox", "sk.", DOTTED, 80, "Access tokens", "whole"),
    Vendor("Mercury", "secret-token:", WORD, 40, "RFC 8959"),
    Vendor("New Relic", "NRAA-", HEX, 27, "API keys"),
    Vendor("New Relic", "NRAK-", UPPER + "a-z", 27, "API keys"),
    Vendor("New Relic", "NRII-", WORD, 32, "API keys"),
    Vendor("New Relic", "NRIQ-", WORD, 32, "API keys"),
    Vendor("New Relic", "NRRA-", HEX, 42, "API keys"),
    Vendor("New Relic", "NRJS-", HEX, 19, "API keys"),
    Vendor("Notion", "ntn_", ALNUM, 46, "API keys"),
    Vendor("Notion", "secret_", ALNUM, 43, "API keys before 2024", "whole"),
    Vendor("npm", "npm_", ALNUM, 36, "About access tokens"),
    Vendor("NVIDIA", "nvapi-", WORD, 64, "API keys"),
    Vendor("Octopus Deploy", "API-", UPPER, 26, "API keys", "whole"),
    Vendor("OpenShift", "sha256~", WORD, 43, "Authentication"),
    Vendor("Stripe, Svix", "whsec_", BASE64, 32, "Webhook signatures"),
    Vendor("Perplexity", "pplx-", ALNUM, 48, "API keys"),
    Vendor("Pinecone", "pcsk_", ALNUM + "_", 60, "API keys"),
    Vendor("Plaid", "access-sandbox-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("Plaid", "access-development-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("Plaid", "access-production-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("PlanetScale", "pscale_tkn_", DOTTED, 32, "Service tokens"),
    Vendor("PlanetScale", "pscale_oauth_", DOTTED, 32, "OAuth"),
    Vendor("PlanetScale", "pscale_pw_", DOTTED, 32, "Connection strings"),
    Vendor("PostHog", "phx_", ALNUM, 43, "Personal API keys"),
    Vendor("PostHog", "phc_", ALNUM, 43, "Project API keys"),
    Vendor("Postman", "PMAK-", HEX + "-", 59, "API keys"),
    Vendor("Prefect", "pnu_", ALNUM, 36, "API keys"),
    Vendor("Prefect", "pnb_", ALNUM, 36, "API keys"),
    Vendor("Pulumi", "pul-", HEX, 40, "Access tokens"),
    Vendor("PyPI", "pypi-", WORD, 85, "API tokens"),
    Vendor("ReadMe", "rdme_", ALNUM, 70, "API keys"),
    Vendor("Replicate", "r8_", ALNUM, 37, "API tokens"),
    Vendor("RubyGems", "rubygems_", HEX, 48, "API keys"),
    Vendor("Scalingo", "tk-us-", WORD, 48, "API tokens", "whole"),
    Vendor("SendGrid", "SG.", DOTTED, 66, "API keys"),
    Vendor("Sentry", "sntrys_", BASE64, 60, "Organization tokens"),
    Vendor("Sentry", "sntryu_", HEX, 64, "User tokens"),
    Vendor("SettleMint", "sm_aat_", ALNUM, 16, "Access tokens"),
    Vendor("SettleMint", "sm_pat_", ALNUM, 16, "Access tokens"),
    Vendor("SettleMint", "sm_sat_", ALNUM, 16, "Access tokens"),
    Vendor("Shippo", "shippo_live_", HEX, 40, "API tokens"),
    Vendor("Shippo", "shippo_test_", HEX, 40, "API tokens"),
    Vendor("Shopify", "shpat_", HEX, 32, "Access tokens"),
    Vendor("Shopify", "shpca_", HEX, 32, "Access tokens"),
    Vendor("Shopify", "shppa_", HEX, 32, "Access tokens"),
    Vendor("Shopify", "shpss_", ALNUM, 32, "Shared secrets"),
    Vendor("Slack", "xoxa-", WORD, 16, "Token types"),
    Vendor("Slack", "xoxb-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxc-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxd-", BASE64 + "%", 24, "Token types"),
    Vendor("Slack", "xoxe-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxe.xoxb-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxe.xoxp-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxo-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxp-", WORD, 24, "Token types"),
    Vendor("Slack", "xoxr-", WORD, 16, "Token types"),
    Vendor("Slack", "xoxs-", WORD, 16, "Token types"),
    Vendor("Slack", "xapp-", WORD, 24, "Token types"),
    Vendor("SonarQube", "squ_", HEX, 40, "User tokens"),
    Vendor("SonarQube", "sqp_", HEX, 40, "Project tokens"),
    Vendor("SonarQube", "sqa_", HEX, 40, "Global tokens"),
    Vendor("Sourcegraph", "sgp_", ALNUM + "_", 40, "Access tokens"),
    Vendor("Square", "EAAA", WORD, 22, "Access tokens", "whole"),
    Vendor("Square", "sq0atp-", WORD, 22, "Access tokens"),
    Vendor("Square", "sq0csp-", WORD, 43, "Application secrets"),
    Vendor("Supabase", "sbp_", HEX, 40, "Access tokens"),
    Vendor("Supabase", "sb_secret_", WORD, 31, "API keys"),
    Vendor("Tailscale", "tskey-", WORD, 24, "Key prefixes"),
    Vendor("Tavily", "tvly-", WORD, 32, "API keys"),
    Vendor("Terraform Cloud", ".atlasv1.", URL64, 60, "API tokens"),
    Vendor("Together, xAI", "xai-", ALNUM, 80, "API keys", "whole"),
    Vendor("Typeform", "tfp_", DOTTED, 59, "Personal access tokens"),
    Vendor("Weights & Biases", "wandb_v1_", WORD, 40, "API keys"),
    Vendor("Authress", ".acc_", DOTTED, 43, "Service clients", "whole"),
    Vendor("Authress", ".acc-", DOTTED, 43, "Service clients", "whole"),
    Vendor("any", "ZXlK", BASE64 + "_-", 40, "RFC 7519: a JWT in base64", "whole"),
    Vendor("Vercel", "vcp_", ALNUM, 24, "Access tokens"),
    Vendor("Vercel", "vci_", ALNUM, 24, "Access tokens"),
    Vendor("X", "AAAAAAAAAAAAAAAAAAAAAA", ALNUM + "%", 80, "OAuth 2.0 bearer tokens", "whole"),
    Vendor("Yandex", "t1.", DOTTED, 90, "IAM tokens", "whole"),
    Vendor("Yandex", "AQVN", WORD, 35, "API keys", "whole"),
    Vendor("Yandex", "YC", WORD, 38, "Static access keys", "whole"),
    Vendor("Yandex", "y0_", WORD, 55, "OAuth tokens", "whole"),
)


def token_at(text: str, start: int) -> tuple[int, int] | None:
    """Returns the span of the token that begins here, behind its prefix; None if it is none of the table's."""
    for width in range(2, min(start, _LONGEST) + 1):
        for vendor in _BY_PREFIX.get(text[start - width : start], ()):
            if _characters(vendor).match(text, start) is not None:
                token = _TOKEN.match(text, start)
                return None if token is None else token.span()
    return None


@cache
def _characters(vendor: Vendor) -> re.Pattern[str]:
    digit = r"(?=[A-Za-z_-]{0,64}+\d)" if vendor.needs.endswith("digit") else ""
    return re.compile(rf"{digit}[{vendor.alphabet}]{{{vendor.least}}}")


_LONGEST: Final = max(len(vendor.prefix) for vendor in VENDORS)
_BY_PREFIX: Final[dict[str, list[Vendor]]] = {}
for _vendor in VENDORS:
    _BY_PREFIX.setdefault(_vendor.prefix, []).append(_vendor)
