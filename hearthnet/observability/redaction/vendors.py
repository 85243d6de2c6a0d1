"""How services' tokens look: a table of prefixes, alphabets and lengths, as their vendors publish them.

A row tells a token by its prefix and by the characters behind it. A prefix that is no word needs sixteen of them (fewer
where the token is shorter), so that a token that was cut is found, too; one that could be a word, or part of one, needs
as many as a whole token has, or a digit among them. A few tokens have a mark at their end instead. Tokens of other
forms have an expression in `shapes`.
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
_MIN_TOKEN_CHARS: Final = 16  # behind a prefix that is no word; a token may have been cut
# To the end of the run, whatever the token's alphabet: no tail of a longer one is left.
_TOKEN: Final = re.compile(r"\.*[\w+/=~%-]+(?:\.+[\w+/=~%-]+)*")


class Vendor(NamedTuple):
    """A kind of token.

    Attributes:
        name: of the service.
        prefix: with which the token begins. It stays: it names the issuer.
        alphabet: of the characters behind the prefix, as a set of a regular expression.
        length: how many of these a token has at least.
        source: the page of the vendor's documentation, or the scanners of source code whose expressions agree.
        needs: "whole" where fewer characters could be a word's, "digit" where they must include one, or both; "uuid"
            where they have the form of one, but any letters.
    """

    name: str
    prefix: str
    alphabet: str
    length: int
    source: str
    needs: Literal["", "digit", "whole", "whole with a digit", "uuid"] = ""

    @property
    def least(self) -> int:
        """How many characters of the alphabet must follow."""
        return self.length if self.needs.startswith("whole") else min(self.length, _MIN_TOKEN_CHARS)


VENDORS: Final = (
    Vendor("1Password", "A3-", UPPER + "-", 31, "About your Secret Key", "whole"),
    Vendor("1Password", "ops_ey", BASE64, 250, "Service account tokens"),
    Vendor("Adafruit IO", "aio_", ALNUM, 28, "Adafruit IO HTTP API, authentication"),
    Vendor("Adobe", "p8e-", WORD, 32, "OAuth Server-to-Server credentials"),
    Vendor("age", "AGE-SECRET-KEY-1", UPPER, 58, "age file format, C2SP"),
    Vendor("age", "AGE-PLUGIN-", UPPER + "-", 40, "age plugin protocol, C2SP", "whole"),
    Vendor("Aiven", "AVNS_", WORD, 19, "Aiven service credentials"),
    Vendor("Alchemy", "alcht_", ALNUM, 30, "Alchemy auth tokens"),
    Vendor("Alibaba Cloud", "LTAI", ALNUM, 16, "AccessKey pair", "whole"),
    Vendor("Amazon Bedrock", "ABSK", BASE64, 100, "Amazon Bedrock API keys, long-term", "whole"),
    Vendor("Amazon Bedrock", "bedrock-api-key-", BASE64, 28, "Amazon Bedrock API keys, short-term"),
    Vendor("Amazon Web Services", "AKIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ASIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ABIA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "ACCA", UPPER, 16, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "A3T", UPPER, 17, "IAM unique identifiers", "whole"),
    Vendor("Amazon Web Services", "amzn.mws.", HEX + "-", 36, "Marketplace Web Service, auth tokens"),
    Vendor("Amazon Web Services", "da2-", ALNUM, 26, "AppSync API keys", "whole"),
    Vendor("Anthropic, OpenAI, DeepSeek, OpenRouter", "sk-", WORD, 32, "API keys", "digit"),
    Vendor("any", "ZXlK", BASE64 + "_-", 40, "RFC 7519: a JWT in base64", "whole"),
    Vendor("Apify", "apify_api_", WORD, 36, "API tokens"),
    Vendor("Artifactory", "AKCp", ALNUM, 69, "JFrog API keys", "whole"),
    Vendor("Artifactory", "cmVmd", ALNUM, 59, "JFrog reference tokens", "whole"),
    Vendor("Atlassian", "ATATT", BASE64 + "_-", 60, "Atlassian API tokens"),
    Vendor("Atlassian", "ATCTT", BASE64 + "_-", 60, "Atlassian access tokens"),
    Vendor("Atlassian Bitbucket", "ATBB", URL64, 24, "App passwords", "whole"),
    Vendor("Bannerbear", "bb_pr_", HEX, 30, "API keys"),
    Vendor("Bannerbear", "bb_ma_", HEX, 30, "API keys"),
    Vendor("Beamer", "b_", URL64, 44, "Beamer API", "whole"),
    Vendor("BestTime", "pri_", HEX, 32, "API keys", "whole"),
    Vendor("Brevo", "xkeysib-", WORD, 81, "API keys"),
    Vendor("Brevo", "xsmtpsib-", WORD, 81, "SMTP keys"),
    Vendor("Buildkite", "bkua_", ALNUM, 40, "API access tokens"),
    Vendor("Checkout.com", "sk_", HEX + "-", 36, "Secret keys", "whole"),
    Vendor("CircleCI", "CCIPAT_", WORD, 63, "Managing API tokens"),
    Vendor("ClickHouse Cloud", "4b1d", ALNUM, 38, "Managing API keys", "whole"),
    Vendor("Clojars", "CLOJARS_", ALNUM, 60, "Deploy tokens"),
    Vendor("Close", "api_", ALNUM + ".", 45, "API keys", "whole with a digit"),
    Vendor("Cloudflare", "v1.0-", HEX + "-", 171, "Origin CA keys"),
    Vendor("Cloudflare", "v1.0-", ALNUM + "-", 171, "Origin CA keys", "whole"),
    Vendor("Cloudflare", "cfat_", ALNUM, 48, "API token formats"),
    Vendor("Cloudflare", "cfut_", ALNUM, 48, "API token formats"),
    Vendor("Cloudflare", "cfk_", ALNUM, 48, "API token formats"),
    Vendor("Column", "live_", ALNUM, 27, "API keys", "whole with a digit"),
    Vendor("Column", "test_", ALNUM, 27, "API keys", "whole with a digit"),
    Vendor("Contentful", "CFPAT-", WORD, 43, "Content Management API, authentication"),
    Vendor("Datadog", "ddapp_", ALNUM, 34, "API and application keys"),
    Vendor("Defined Networking", "dnkey-", URL64, 79, "API keys"),
    Vendor("dfuse", "web_", ALNUM, 32, "API keys", "whole with a digit"),
    Vendor("Deno", "ddp_", ALNUM, 36, "Deploy access tokens"),
    Vendor("Deno", "ddw_", ALNUM, 36, "Deploy access tokens"),
    Vendor("Dependency-Track", "odt_", ALNUM, 32, "API keys", "whole"),
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
    Vendor("Dropbox", "sl.u.", DOTTED, 130, "OAuth guide"),
    Vendor("Duffel", "duffel_test_", URL64, 43, "Access tokens"),
    Vendor("Duffel", "duffel_live_", URL64, 43, "Access tokens"),
    Vendor("EasyPost", "EZAK", ALNUM, 54, "API keys", "whole"),
    Vendor("EasyPost", "EZTK", ALNUM, 54, "API keys", "whole"),
    Vendor("EcoStruxure IT", "AK1", ALNUM + "/", 50, "API keys", "whole"),
    Vendor("ElevenLabs, Mistral", "sk_", HEX, 48, "API keys", "whole"),
    Vendor("Endor Labs", "endr+", WORD, 16, "API keys"),
    Vendor("Facebook", "EAAC", ALNUM, 100, "Access tokens", "whole"),
    Vendor("Facebook", "EAAM", ALNUM, 100, "Access tokens", "whole"),
    Vendor("Facebook", "EAACEdEose0cBA", ALNUM, 20, "Access tokens of the Graph API Explorer"),
    Vendor("Figma", "figd_", WORD, 40, "Personal access tokens"),
    Vendor("Figma", "figo_", WORD, 40, "OAuth tokens"),
    Vendor("Figma", "figu_", WORD, 40, "OAuth tokens"),
    Vendor("Figma", "figur_", WORD, 40, _SCANNERS),
    Vendor("Figma", "figor_", WORD, 40, _SCANNERS),
    Vendor("Figma", "figuh_", WORD, 40, _SCANNERS),
    Vendor("Figma", "figoh_", WORD, 40, _SCANNERS),
    Vendor("Figma", "figp_", URL64, 40, "Plan access tokens"),
    Vendor("Finage", "API_KEY", UPPER, 32, "API keys", "whole"),
    Vendor("Firecrawl", "fc-", HEX, 32, "API keys", "whole"),
    Vendor("Fleetbase", "flb_live_", ALNUM, 20, "API credentials"),
    Vendor("Fleetbase", "flb_test_", ALNUM, 20, "API credentials"),
    Vendor("Flexport", "shltm_", WORD, 40, "Logistics API tokens"),
    Vendor("Flutterwave", "FLWSECK-", ALNUM, 32, "API keys"),
    Vendor("Fly.io", "fo1_", WORD, 43, "Access tokens"),
    Vendor("Fly.io", "fm1r_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm1a_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Fly.io", "fm2_", BASE64, 100, "Access tokens, macaroons"),
    Vendor("Frame.io", "fio-u-", URL64, 64, "Developer tokens"),
    Vendor("FullStory", "na1.", BASE64, 100, "API keys", "whole"),
    Vendor("FullStory", "eu1.", BASE64, 100, "API keys", "whole"),
    Vendor("GitHub", "ghp_", ALNUM + "_", 36, "GitHub's token formats"),
    Vendor("GitHub", "gho_", ALNUM + "_", 36, "GitHub's token formats"),
    Vendor("GitHub", "ghu_", ALNUM + "_", 36, "GitHub's token formats"),
    Vendor("GitHub", "ghs_", ALNUM + "_", 36, "GitHub's token formats"),
    Vendor("GitHub", "ghr_", ALNUM + "_", 36, "GitHub's token formats"),
    Vendor("GitHub", "ghs_", DOTTED, 36, "Installation access tokens, stateless"),
    Vendor("GitHub", "github_pat_", ALNUM + "_", 82, "GitHub's token formats"),
    Vendor("GitLab", "glpat-", URL64, 20, "Token prefixes"),
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
    Vendor("Google", "AQ.", WORD, 50, "Gemini API, authorization keys; the prefix by its forum", "whole"),
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
    Vendor("HubSpot", "pat-na1-", ALNUM + "-", 36, "Private apps"),
    Vendor("HubSpot", "pat-eu1-", ALNUM + "-", 36, "Private apps"),
    Vendor("Hugging Face", "hf_", ALNUM, 34, "User access tokens"),
    Vendor("Hugging Face", "api_org_", ALNUM, 34, "Organization API tokens"),
    Vendor("Infracost", "ico-", ALNUM, 32, "Environment variables"),
    Vendor("Intra 42", "s-s4t2ud-", HEX, 64, "API applications"),
    Vendor("Intra 42", "s-s4t2af-", HEX, 64, "API applications"),
    Vendor("Intra 42", "u-s4t2ud-", HEX, 64, "API applications"),
    Vendor("Intra 42", "u-s4t2af-", HEX, 64, "API applications"),
    Vendor("Jina", "jina_", ALNUM, 60, "API keys", "whole"),
    Vendor("LangChain", "lsv2_pt_", HEX + "_", 43, "LangSmith API keys"),
    Vendor("LangChain", "lsv2_sk_", HEX + "_", 43, "LangSmith API keys"),
    Vendor("Langfuse", "pk-lf-", HEX + "-", 36, "API keys"),
    Vendor("LaunchDarkly", "sdk-", "0-9a-z-", 36, "SDK keys", "uuid"),
    Vendor("LaunchDarkly", "mob-", "0-9a-z-", 36, "Mobile keys", "uuid"),
    Vendor("LaunchDarkly", "api-", "0-9a-z-", 36, "API access tokens", "uuid"),
    Vendor("Linear", "lin_api_", ALNUM + "_", 32, "API keys"),
    Vendor("Linear", "lin_oauth_", ALNUM, 40, "OAuth"),
    Vendor("Lob", "live_pub_", HEX, 31, "Publishable keys"),
    Vendor("Lob", "test_pub_", HEX, 31, "Publishable keys"),
    Vendor("LocationIQ", "pk.", ALNUM + "-", 32, "Access tokens", "whole with a digit"),
    Vendor("Mailgun", "key-", ALNUM, 32, "API keys", "whole with a digit"),
    Vendor("Mailgun", "pubkey-", HEX, 32, "API keys", "whole"),
    Vendor("Mapbox", "pk.", DOTTED64, 53, _SCANNERS, "whole with a digit"),
    Vendor("Mapbox", "sk.", DOTTED64, 53, _SCANNERS, "whole with a digit"),
    Vendor("Mapbox", "tk.", DOTTED64, 53, _SCANNERS, "whole with a digit"),
    Vendor("Mercury", "secret-token:", WORD, 40, "RFC 8959"),
    Vendor("Netlify", "nfp_", ALNUM + "_", 36, "Personal access tokens"),
    Vendor("New Relic", "NRAA-", HEX, 27, "API keys"),
    Vendor("New Relic", "NRAK-", UPPER + "a-z", 27, "API keys"),
    Vendor("New Relic", "NRII-", WORD, 32, "API keys"),
    Vendor("New Relic", "NRIQ-", WORD, 32, "API keys"),
    Vendor("New Relic", "NRRA-", HEX, 42, "API keys"),
    Vendor("New Relic", "NRJS-", HEX, 19, "API keys"),
    Vendor("New Relic", "NRBR-", HEX, 19, "API keys"),
    *(
        Vendor("New Relic, in small letters", prefix, WORD, 27, _SCANNERS)
        for prefix in ("nrak-", "nraa-", "nrii-", "nriq-", "nrra-")
    ),
    Vendor("New Relic", "px-dep-", HEX + "-", 36, "Pixie deploy keys"),
    Vendor("New Relic", "px-api-", HEX + "-", 36, "Pixie API keys"),
    Vendor("Nightfall", "NF-", ALNUM, 32, "API keys", "whole with a digit"),
    Vendor("Notion", "ntn_", ALNUM, 46, "API keys"),
    Vendor(
        "Notion before 2024, ConvertAPI, Stripe", "secret_", ALNUM, 16, "API keys; client secrets", "whole with a digit"
    ),
    Vendor("npm", "npm_", ALNUM, 36, "About access tokens"),
    Vendor("npm", "npm_", ALNUM + "_", 36, _SCANNERS, "whole with a digit"),
    Vendor("NVIDIA", "nvapi-", WORD, 64, "API keys"),
    Vendor("Octopus Deploy", "API-", UPPER, 26, "API keys", "whole"),
    Vendor("OpenShift", "sha256~", WORD, 43, "Authentication"),
    Vendor("Pagar.me", "ak_live_", ALNUM, 30, "API keys"),
    Vendor("Pagar.me", "ak_test_", ALNUM, 30, "API keys", "digit"),
    Vendor("Perplexity", "pplx-", ALNUM, 48, "API keys"),
    Vendor("pganalyze", "pgar_", ALNUM, 27, "API keys"),
    Vendor("Pinecone", "pcsk_", ALNUM + "_", 60, "API keys"),
    Vendor("Plaid", "access-sandbox-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("Plaid", "access-development-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("Plaid", "access-production-", HEX + "-", 36, "Tokens", "whole"),
    Vendor("PlanetScale", "pscale_tkn_", DOTTED, 32, "Service tokens"),
    Vendor("PlanetScale", "pscale_oauth_", DOTTED, 32, "OAuth"),
    Vendor("PlanetScale", "pscale_pw_", DOTTED, 32, "Connection strings"),
    Vendor("Portainer", "ptr_", BASE64 + "_-", 40, "API access tokens", "whole with a digit"),
    Vendor("PostHog", "phx_", ALNUM + "_", 43, "Personal API keys"),
    Vendor("PostHog", "phc_", ALNUM + "_", 43, "Project API keys"),
    Vendor("Postman", "PMAK-", ALNUM + "-", 59, "API keys"),
    Vendor("Prefect", "pnu_", ALNUM, 36, "API keys"),
    Vendor("Prefect", "pnb_", ALNUM, 36, "API keys"),
    Vendor("PubNub", "pub-c-", ALNUM + "-", 36, "Keysets"),
    Vendor("PubNub", "sec-c-", ALNUM, 48, "Keysets"),
    Vendor("PubNub", "sub-c-", ALNUM + "-", 36, "Keysets"),
    Vendor("Pulumi", "pul-", ALNUM, 40, "Access tokens"),
    Vendor("PyPI", "pypi-", WORD, 85, "API tokens"),
    Vendor("Ramp", "ramp_id_", ALNUM, 40, "Developer API"),
    Vendor("Ramp", "ramp_sec_", ALNUM, 48, "Developer API"),
    Vendor("ReadMe", "rdme_", ALNUM, 70, "API keys"),
    Vendor("Replicate", "r8_", WORD, 37, "API tokens"),
    Vendor("Rootly", "rootly_", HEX, 64, "API keys"),
    Vendor("RubyGems", "rubygems_", ALNUM, 48, "API keys"),
    Vendor("SaladCloud", "salad_cloud_", ALNUM + "_", 16, "API keys"),
    Vendor("Salesforce", "3MVG9", BASE64 + "._", 80, "Connected apps", "whole"),
    Vendor("Salesforce", "5AEP861", BASE64 + "._", 80, "OAuth refresh tokens", "whole"),
    Vendor("Scalingo", "tk-us-", WORD, 48, "API tokens", "whole"),
    Vendor("SendGrid", "SG.", DOTTED, 66, "API keys"),
    Vendor("Sentry", "sntrys_", BASE64 + "_", 60, "Organization tokens"),
    Vendor("Sentry", "sntryu_", HEX, 64, "User tokens"),
    Vendor("SettleMint", "sm_aat_", ALNUM, 16, "Access tokens"),
    Vendor("SettleMint", "sm_pat_", ALNUM, 16, "Access tokens"),
    Vendor("SettleMint", "sm_sat_", ALNUM, 16, "Access tokens"),
    Vendor("Shippo", "shippo_live_", HEX, 40, "API tokens"),
    Vendor("Shippo", "shippo_test_", HEX, 40, "API tokens"),
    Vendor("Shopify", "shpat_", ALNUM, 32, "Access tokens"),
    Vendor("Shopify", "shpca_", ALNUM, 32, "Access tokens"),
    Vendor("Shopify", "shppa_", ALNUM, 32, "Access tokens"),
    Vendor("Shopify", "shpss_", ALNUM, 32, "Shared secrets"),
    Vendor("Slack", "xapp-", "+/" + WORD, 24, "Token types"),
    Vendor("Smooch", "act_", ALNUM, 24, _SCANNERS, "whole with a digit"),
    Vendor("SonarQube", "squ_", HEX, 40, "User tokens"),
    Vendor("SonarQube", "sqp_", HEX, 40, "Project tokens"),
    Vendor("SonarQube", "sqa_", HEX, 40, "Global tokens"),
    Vendor("SonarQube", "sqco_", ALNUM, 59, "Scoped organization tokens"),
    Vendor("Sourcegraph", "sgp_", ALNUM + "_", 40, "Access tokens"),
    Vendor("Sourcegraph", "slk_", HEX, 64, "License keys", "whole"),
    Vendor("Spectral", "spu-", ALNUM, 32, "Personal API keys"),
    Vendor("Spectral", "spo-", ALNUM, 32, "Organization API keys"),
    Vendor("Square", "EAAA", BASE64 + "_-", 22, "Access tokens", "whole"),
    Vendor("StackHawk", "hawk.", DOTTED, 41, "API keys", "whole with a digit"),
    Vendor("Stripe, Svix", "whsec_", BASE64, 32, "Webhook signatures"),
    Vendor("Supabase", "sbp_", ALNUM, 40, "Access tokens"),
    Vendor("Supabase", "sb_secret_", WORD, 31, "API keys"),
    Vendor("Tailscale", "tskey-", WORD, 24, "Key prefixes"),
    Vendor("Tavily", "tvly-", WORD, 32, "API keys"),
    Vendor("Teamwork", "tkn.v1_", ALNUM + "=", 71, "API tokens"),
    Vendor("Telnyx", "KEY", ALNUM + "_", 55, "API keys", "whole with a digit"),
    Vendor("Terraform Cloud", ".atlasv1.", URL64, 60, "API tokens"),
    Vendor("Together, xAI", "xai-", ALNUM + "_", 80, "API keys", "whole"),
    Vendor("TruffleHog", "thog-secret-", HEX, 32, "Enterprise scanners"),
    Vendor("TruffleHog", "thog-key-", HEX, 16, "Enterprise scanners"),
    Vendor("Twilio", "SK", HEX, 32, "Twilio API keys", "whole"),
    Vendor("Twitch", "live_", ALNUM + "_", 39, "Stream keys", "whole with a digit"),
    Vendor("Typeform", "tfp_", DOTTED, 59, "Personal access tokens"),
    Vendor("Ubidots", "BBFF-", ALNUM, 30, "API tokens"),
    Vendor("Vercel", "vcp_", ALNUM, 24, "Access tokens"),
    Vendor("Vercel", "vci_", ALNUM, 24, "Access tokens"),
    Vendor("Vercel", "vca_", ALNUM, 56, "Access tokens"),
    Vendor("Vercel", "vck_", ALNUM, 56, "AI Gateway API keys"),
    Vendor("Vercel", "vcr_", ALNUM, 56, "Refresh tokens"),
    Vendor("Voiceflow", "VF.", ALNUM + ".", 41, "API keys", "whole"),
    Vendor("Weights & Biases", "wandb_v1_", WORD, 40, "API keys"),
    Vendor("X", "AAAAAAAAAAAAAAAAAAAAAA", ALNUM + "%", 80, "OAuth 2.0 bearer tokens", "whole"),
    Vendor("Yandex", "t1.", DOTTED, 90, "IAM tokens", "whole"),
    Vendor("Yandex", "AQVN", WORD, 35, "API keys", "whole"),
    Vendor("Yandex", "YC", WORD, 38, "Static access keys", "whole"),
    Vendor("Yandex", "y0_", WORD, 55, "OAuth tokens", "whole"),
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
    digit = rf"(?=[{vendor.alphabet.removeprefix('0-9')}]{{0,64}}+\d)" if vendor.needs.endswith("digit") else ""
    return re.compile(rf"{digit}[{vendor.alphabet}]{{{vendor.least}}}")


@cache
def _before(mark: Mark) -> re.Pattern[str]:
    return re.compile(rf"[{mark.alphabet}]{{{mark.length}}}")


_LONGEST: Final = max(len(vendor.prefix) for vendor in VENDORS)
_BY_PREFIX: Final[dict[str, list[Vendor]]] = {}
for _vendor in VENDORS:
    _BY_PREFIX.setdefault(_vendor.prefix, []).append(_vendor)
