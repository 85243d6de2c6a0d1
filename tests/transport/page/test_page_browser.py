"""The page of a real node in a real browser: each view against SQL, live rows, filters, jumps, keys, a restart."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import orjson
import pytest
from support import forkserver
from support.browser import NARROW, NEEDS_CHROMIUM, PATIENCE_MS, WIDE, sideways
from support.waiting import wait_until

from hearthnet.observability.store.search.language import parse

pytestmark = NEEDS_CHROMIUM
PROGRAM = Path(__file__).with_name("recording.py")
READ = "library.read"
STATES = {
    "now": "#now", "traces": "#traces", "filtered": "#traces?q=cap%3Alibrary.read+result%3Afailed", "trace": "",
    "problem": "#traces?q=duration%3Asoon", "logs": "#logs", "record": "", "doctor": "#doctor", "runs": "#runs",
    "run": "", "sql": "#sql",
}  # fmt: skip
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]}
FEW_ROWS = {"exclude": [[".row[data-seq]:nth-child(n + 9)"]]}  # the others look the same
FAILED = "result NOT IN ('ok', 'cancelled')"


@pytest.fixture(scope="module", autouse=True)
def traffic(page_node):
    """Calls of the node, good and bad, and what another program recorded into the same store."""
    page_node.start()
    done = forkserver.run([sys.executable, str(PROGRAM), "ordinary"], env={"HOME": str(page_node.home)})
    assert done.returncode == 0, done.stderr
    for _ in range(3):
        page_node.echo()
        page_node.echo(fail="timeout")
    page_node.wait_for_sql([(6,)], "SELECT count(*) FROM traces WHERE capability = 'experimental.echo'")
    page_node.wait_for_sql([(24,)], "SELECT count(*) FROM traces WHERE capability = 'library.read'")


def newest(node, what: str = "seq", where: str = "1"):
    """A column of the newest trace."""
    return node.sql(f"SELECT {what} FROM traces WHERE {where} ORDER BY seq DESC LIMIT 1")[0][0]


def address(node, name: str) -> str:
    """The address of something that can be on the screen."""
    if name == "trace":
        return f"#traces?open={newest(node, where=f'capability = {READ!r} AND {FAILED}')}"
    if name == "record":
        return f"#logs?open={node.sql('SELECT max(seq) FROM logs WHERE level = ?', 'error')[0][0]}"
    if name == "run":
        return f"#runs?open={node.sql('SELECT run_id FROM runs ORDER BY rowid LIMIT 1')[0][0]}"
    return STATES[name]


@pytest.fixture(scope="module")
def axe(shared_tab):
    """The checks, read by the tab once: to read them costs as much as to run them."""
    from axe_playwright_python.base import AXE_SCRIPT  # late: it is in the extra dev
    from axe_playwright_python.sync_playwright import Axe

    shared_tab.page.evaluate(AXE_SCRIPT)
    return Axe("axe.version")


@pytest.mark.parametrize("name", STATES)
def test_view_can_be_used_by_everybody(page_node, tab, axe, name):
    """No finding of axe that is serious, light and dark; nothing is wider than the screen, wide and narrow."""
    tab.go(address(page_node, name))
    for scheme, rules in (("light", AXE), ("dark", COLOURS)):  # the structure is the same in both
        tab.page.emulate_media(color_scheme=scheme)
        found = axe.run(tab.page, FEW_ROWS, rules).response["violations"]
        severe = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in severe] == [], scheme
    for size in (NARROW, {"width": 360, "height": 700}, WIDE):
        tab.page.set_viewport_size(size)
        assert sideways(tab) == 0, size


def test_first_view_has_the_numbers_of_sql(page_node, tab):
    """Calls, failures and the capabilities' counts are those of the table, and the verdict names a failure."""
    total, failed = page_node.sql(f"SELECT count(*), sum({FAILED}) FROM traces")[0]
    counts = page_node.sql(
        f"SELECT capability, count(*), sum({FAILED}) FROM traces GROUP BY capability ORDER BY count(*) DESC"
    )
    tab.page.wait_for_selector(".capabilities tbody tr")

    assert f"{failed} of {total} calls" in tab.text(".tile:nth-child(2)")
    rows = tab.page.locator(".capabilities tbody tr").all_inner_texts()
    assert [(row.split()[0], int(row.split()[1])) for row in rows] == [(name, count) for name, count, _ in counts]
    assert tab.text(".node-name") == "home"
    assert "live" in tab.text(".connection")


def test_list_has_the_rows_of_sql(page_node, tab):
    """Newest first, or the slowest: the same rows in the same order."""
    tab.go("#traces")
    assert tab.seqs() == [seq for (seq,) in page_node.sql("SELECT seq FROM traces ORDER BY seq DESC LIMIT 100")]

    tab.page.get_by_role("button", name="slowest").click()
    tab.settle()
    slowest = page_node.sql("SELECT seq FROM traces ORDER BY duration_ms DESC, seq DESC LIMIT 100")
    wait_until(lambda: tab.seqs() == [seq for (seq,) in slowest], tab.seqs)
    assert "order=slowest" in tab.page.url


def test_search_shows_what_it_understood(page_node, tab):
    """The rows of the query, its terms as chips, its SQL; a chip that is removed is gone from the query."""
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("cap:library.read result:failed")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".chip")
    tab.settle()
    wanted = page_node.sql(f"SELECT seq FROM traces WHERE capability = 'library.read' AND {FAILED} ORDER BY seq DESC")

    assert tab.seqs() == [seq for (seq,) in wanted]
    assert [text.split("✕")[0].strip() for text in tab.page.locator("span.chip").all_inner_texts()] == [
        "cap:library.read", "result:failed",
    ]  # fmt: skip
    tab.page.get_by_role("button", name="SQL").click()
    assert (
        page_node.sql(tab.text(".sql-shown pre").replace("SELECT seq, ", "SELECT seq AS n, seq, "))[0][0]
        == wanted[0][0]
    )
    tab.page.get_by_role("button", name="remove result:failed").click()
    tab.settle()
    assert tab.page.locator("span.chip").count() == 1
    assert tab.page.locator("input[type=search]").input_value() == "cap:library.read"


def test_search_says_what_it_does_not_understand(tab):
    """The place is marked, with what to write instead."""
    tab.go("#traces?q=ok+duration%3Asoon")

    assert tab.text("mark") in ("duration:soon", "soon")
    assert "duration" in tab.text(".problem")


def test_search_widens_a_range_without_matches(tab):
    """It says when the newest match was, and one click shows it."""
    tab.go("#traces?q=cap%3Alibrary.read+until%3A2020-01-01")
    assert "the newest match is of" in tab.text(".message")
    tab.page.get_by_role("button", name="Widen").click()
    tab.page.wait_for_selector(".row[data-seq]")
    assert tab.page.locator("input[type=search]").input_value() == "cap:library.read"


def test_waterfall_has_the_spans_of_sql(page_node, tab):
    """Each span with its duration, its bar where its offset says, and the fields once it is chosen."""
    seq = newest(page_node, where="capability = 'library.read'")
    spans = page_node.sql("SELECT id, name, offset_ms, duration_ms FROM spans WHERE seq = ? ORDER BY offset_ms", seq)
    whole = newest(page_node, "duration_ms", f"seq = {seq}")
    tab.go(f"#traces?open={seq}")
    tab.page.wait_for_selector(".draw-row")
    script = """async ([spans, version]) => {
        const { duration } = await import(new URL(`page/${version}/draw/format.js`, location.href));
        return spans.map(([id, name, offset, ms]) => {
            const row = document.querySelector(`.draw-row[data-span="${id}"]`);
            const bar = row.querySelector("rect").getBoundingClientRect();
            const whole = document.querySelector(".draw-row[data-index='0'] rect").getBoundingClientRect();
            return {
                name: row.querySelector(".draw-name bdi").textContent,
                isTook: row.querySelector(".draw-took").textContent.startsWith(duration(ms)),
                left: (bar.left - whole.left) / whole.width, width: bar.width / whole.width, least: 2.5 / whole.width,
            };
        });
    }"""
    version = tab.page.locator("script").first.get_attribute("src").split("/")[1]
    drawn = tab.page.evaluate(script, [[list(span) for span in spans], version])

    assert len(drawn) == 2
    for (_, name, offset, ms), row in zip(spans, drawn, strict=True):
        assert (row["name"], row["isTook"]) == (name, True)
        assert row["left"] == pytest.approx(offset / whole, abs=row["least"])
        assert row["width"] == pytest.approx(ms / whole, abs=row["least"])
    tab.page.locator(".draw-row[data-span]").first.click()
    assert "shelf" in tab.text(".span-detail")


def test_a_record_leads_to_its_trace_and_back(page_node, tab):
    """The trace opens with the record lit; the way back finds the list as it was."""
    tab.go("#logs?q=level%3Aerror")
    tab.page.locator(".row[data-seq]").nth(2).click()
    record = int(tab.page.locator(".row.opened").get_attribute("data-seq"))
    trace_id = page_node.sql("SELECT trace_id FROM logs WHERE seq = ?", record)[0][0]
    tab.page.get_by_role("button", name="Open its trace").click()
    tab.page.wait_for_selector(f"tr.lit[data-seq='{record}']")

    assert trace_id in tab.text(".pane .id")
    tab.page.locator("tr.lit a").click()
    tab.until("location.hash.startsWith('#logs')")
    tab.page.wait_for_selector(f".row.opened[data-seq='{record}']")
    tab.page.go_back()
    tab.page.wait_for_selector(f"tr.lit[data-seq='{record}']")
    tab.page.go_back()
    tab.page.wait_for_selector(f".row.log.opened[data-seq='{record}']")


def test_new_calls_appear_and_never_move_what_is_read(page_node, tab):
    """At the top they flow in; with a trace open they wait behind "1 new", and the same row stays open."""
    tab.go("#traces")
    before = tab.seqs()[0]
    page_node.echo("first")
    wait_until(lambda: tab.seqs()[0] != before, tab.seqs)
    first = tab.seqs()[0]
    tab.page.locator(".row[data-seq]").nth(1).click()
    tab.page.wait_for_selector(".draw-row")
    held = tab.page.locator(".row.opened").get_attribute("data-seq")
    page_node.echo("second")
    tab.page.wait_for_selector(".news:visible")

    assert tab.text(".news") == "1 new"
    assert tab.seqs()[0] == first
    assert tab.page.locator(".row.opened").get_attribute("data-seq") == held
    tab.page.keyboard.press("Escape")
    tab.page.locator(".news").click()
    assert tab.seqs()[0] == newest(page_node)
    assert tab.seqs() == sorted(set(tab.seqs()), reverse=True)
    in_document = tab.page.locator("main .row[data-seq]").evaluate_all(
        "rows => rows.map(row => Number(row.dataset.seq))"
    )
    assert in_document == tab.seqs()


def test_keys_move_open_and_close(tab):
    """j, k, Enter, Esc and / do what the page says; switched off, none of the single ones does anything."""
    tab.go("#traces")
    press = tab.page.keyboard.press
    for key in ("j", "j", "j", "k"):
        press(key)
    second = tab.seqs()[1]
    assert tab.page.locator(".row[aria-selected=true]").get_attribute("data-seq") == str(second)
    press("Enter")
    tab.page.wait_for_selector(f".row.opened[data-seq='{second}']")
    assert f"open={second}" in tab.page.url
    press("Escape")
    tab.page.wait_for_selector(".pane", state="hidden")
    press("Escape")
    tab.page.locator(".settings summary").click()
    tab.page.get_by_label("Single keys").uncheck()
    tab.page.locator(".settings summary").click()
    tab.page.locator(".list").focus()
    press("j")
    press("/")
    done = tab.page.locator(".row[aria-selected=true]").count(), tab.page.evaluate("document.activeElement.className")
    tab.page.locator(".settings summary").click()
    tab.page.get_by_label("Single keys").check()
    tab.page.locator(".settings summary").click()
    assert done == (0, "list")


def test_narrow_screen_covers_the_list_and_keeps_its_place(tab):
    """The trace is over the list; closing it shows the same rows. The focus goes with them: none is left beneath."""
    tab.page.set_viewport_size({"width": 400, "height": 500})
    tab.go("#traces")
    tab.page.locator(".list").evaluate("box => { box.scrollTop = 280; }")
    tab.until("document.querySelector('.row[data-seq]').getAttribute('aria-rowindex') > 2")
    top = tab.page.locator(".list").evaluate("box => box.scrollTop")
    tab.page.locator(".row[data-seq]").nth(12).click()
    tab.page.wait_for_selector(".draw-row")
    pane, feed = (tab.page.locator(name).bounding_box() for name in (".pane", ".feed"))

    assert (pane["x"], pane["width"]) == (feed["x"], feed["width"])
    assert tab.page.locator(".feed").evaluate("feed => feed.inert")
    tab.page.locator(".pane .close").click()
    tab.page.wait_for_selector(".pane", state="hidden")
    assert tab.page.locator(".list").evaluate("box => box.scrollTop") == top
    tab.page.locator(".list").focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".draw-row")
    assert tab.page.evaluate("document.activeElement === document.querySelector('.pane')")
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector(".pane", state="hidden")
    assert tab.page.evaluate("document.activeElement === document.querySelector('.list')")
    tab.page.locator(".list").evaluate("box => { box.scrollTop = 0; }")  # further down, new rows would be held back


def test_what_is_copied(page_node, tab):
    """The id, the command, and a link in which a relative time is a fixed one."""
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=page_node.url)
    seq, trace_id = page_node.sql("SELECT seq, trace_id FROM traces ORDER BY seq DESC LIMIT 1")[0]
    tab.go(f"#traces?q=since%3A2h&open={seq}")

    def copied(name: str) -> str:
        tab.page.get_by_role("button", name=name, exact=True).first.click()
        tab.page.wait_for_selector(".toast:visible")
        return tab.page.evaluate("navigator.clipboard.readText()")

    assert copied("Copy id") == trace_id
    assert copied("Copy command") == f"hearthnet trace show {trace_id}"
    link = copied("Link")
    assert "since%3A20" in link
    assert f"open={seq}" in link
    assert link.startswith(page_node.url)


def test_times_are_of_the_zone_that_is_chosen(page_node, tab):
    """Local first, with UTC on hover; switched, in UTC."""
    tab.go("#logs")
    stored = page_node.sql("SELECT strftime('%H:%M', ts_us / 1e6, 'unixepoch') FROM logs ORDER BY seq DESC LIMIT 1")[0][
        0
    ]
    first = tab.page.locator(".row[data-seq] time").first
    first.hover()
    assert f"T{stored}" in first.get_attribute("title")
    assert stored not in first.inner_text()
    tab.page.locator(".settings summary").click()
    tab.page.get_by_label("Times in").select_option("UTC")
    shown = tab.page.locator(".row[data-seq] time").first.inner_text()
    tab.page.get_by_label("Times in").select_option("local")
    tab.page.locator(".settings summary").click()
    assert shown.startswith(stored)


def test_level_follows_the_address(tab):
    """The choice of levels is what the query says, also after the way back."""
    tab.go("#logs")
    tab.page.get_by_label("Least level").select_option("warning")
    tab.settle()
    assert "level%3A%3E%3Dwarning" in tab.page.url
    shown = set(tab.page.locator("main .row .c-level").all_inner_texts()[1:])
    assert "error" in shown
    assert shown <= {"warning", "error"}  # on a busy machine the node itself may have warned
    tab.page.go_back()
    tab.until("document.querySelector('[aria-label=\"Least level\"]').value === ''")
    tab.go("#logs?q=level%3A%3E%3Derror")
    assert tab.page.get_by_label("Least level").input_value() == "error"


def test_forced_colours_leave_bars_and_the_selected_row(page_node, tab):
    """Where the system replaces all colours, a bar has that of the text and the selected row an outline."""
    style = "(node, name) => getComputedStyle(node)[name]"
    tab.page.emulate_media(forced_colors="active")
    try:
        tab.go("#traces")
        tab.page.locator(".list").focus()
        tab.page.keyboard.press("j")
        ink, canvas = (tab.page.locator("body").evaluate(style, name) for name in ("color", "backgroundColor"))
        assert ink != canvas
        assert tab.page.locator(".took-bar > span").first.evaluate(style, "backgroundColor") == ink
        assert tab.page.locator(".row[aria-selected=true]").evaluate(style, "outlineStyle") == "solid"
        assert set(tab.page.locator("main .row .outcome .glyph").all_inner_texts()) == {"✓", "✕"}
        tab.go("#now")
        tab.page.wait_for_selector(".chart rect.calls")
        assert tab.page.locator(".chart rect.calls").first.evaluate(style, "fill") == ink
        assert tab.page.locator(".spark path").first.evaluate(style, "stroke") != canvas
    finally:
        tab.page.emulate_media(forced_colors="none")


def test_list_as_text(tab):
    """All loaded rows as text, which the browser's own search finds."""
    tab.go("#traces?q=cap%3Alibrary.read")
    tab.page.get_by_role("button", name="As text").click()
    shown = tab.text("dialog pre")
    tab.page.keyboard.press("Escape")
    assert shown.count("library.read") == 24


def test_long_list_as_text_is_whole(tab):
    """No row is cut, however many there are."""
    script = "count => module.showAsText('row', Array(count).fill(0), (_, at) => `${at} `.padEnd(99, 'x'), () => {})"
    call(tab, "text", script, 1_000)
    shown = tab.page.locator("dialog pre").text_content()
    tab.page.keyboard.press("Escape")

    assert [len(line) for line in shown.splitlines()] == [99] * 1_000


def test_doctor_shows_each_check(page_node, tab):
    """The checks of `hearthnet doctor`, worst first, with a fix to copy where there is one."""
    tab.go("#doctor")
    tab.page.wait_for_selector(".finding", state="attached")
    shown = tab.page.locator(".finding h2 .mono").all_text_contents()
    told = page_node.cli("doctor", "--json")

    assert shown
    assert all(f'"{name}"' in told.stdout for name in shown)


def test_sql_runs_a_question_and_says_what_is_wrong(page_node, tab):
    """A question of the cookbook runs as it is; an error is in SQLite's words; a value is text."""
    tab.go("#sql")
    tab.page.wait_for_selector(".questions button")
    assert tab.page.locator(".questions .plain button").count() == 20
    editor = tab.page.locator("textarea")
    editor.fill("SELECT count(*) AS n, '<b>x</b>' AS text FROM traces")
    editor.press("Control+Enter")
    tab.page.wait_for_selector(".result td")
    assert tab.page.locator(".result td").all_inner_texts() == [
        str(page_node.sql("SELECT count(*) FROM traces")[0][0]), "<b>x</b>",
    ]  # fmt: skip
    tab.expected.append("400")
    editor.fill("SELECT missing FROM traces")
    editor.press("Control+Enter")
    tab.page.wait_for_selector(".result pre")
    assert "no such column: missing" in tab.text(".result pre")


def call(tab, module: str, script: str, given):
    """What a script says of a module of the page: `module` is its name within the script."""
    version = tab.page.locator("script").first.get_attribute("src").split("/")[1]
    return tab.page.evaluate(
        f"async given => {{ const module = await import('/page/{version}/{module}.js'); return ({script})(given); }}",
        given,
    )


def test_a_value_that_is_clicked_finds_exactly_itself(tab):
    """The query language reads a term of the page as the same field and value, whatever is in the value."""
    values = [
        "plain",
        "a b",
        'C:\\t "x":-1',
        "-",
        "*",
        "x*",
        "naïve 🏠",
        "\u202e",
        "a,b",
        "since:2h",
        "",
        "\n",
        "'",
        "//x",
    ]
    terms = call(tab, "query", "values => values.map(value => module.term('cap', value))", values)

    for value, term in zip(values, terms, strict=True):
        (read,) = parse(term).terms
        assert (read.field, [one[:2] for one in read.values]) == ("cap", [(value, False)]), term


def test_a_chip_is_removed_where_characters_are_two_units(tab):
    """The node counts characters; the browser's strings count UTF-16 units."""
    query = 'cap:"🏠🏠" result:ok "🏠"'
    terms = [term.as_dict() for term in parse(query).terms]
    script = "([query, terms]) => terms.map(term => module.without(query, [term]))"

    assert call(tab, "query", script, [query, terms]) == ['result:ok "🏠"', 'cap:"🏠🏠" "🏠"', 'cap:"🏠🏠" result:ok']


def test_a_chip_leaves_the_other_terms_as_they_are(tab):
    """Spaces within quotes stay, and what is negated stays negated once its time is fixed."""
    query = 'msg:"a  b" -since:2h cap:x'
    msg, since, cap = (term.as_dict() for term in parse(query).terms)
    script = "([query, terms]) => terms.map(term => module.without(query, [term]))"

    assert call(tab, "query", script, [query, [since, cap, msg]]) == [
        'msg:"a  b" cap:x', 'msg:"a  b" -since:2h', "-since:2h cap:x",
    ]  # fmt: skip
    fixed = call(tab, "query", "term => module.fixedTime(term)", {**since, "us": 7_200_000_000})
    assert fixed == "-since:1970-01-01T02:00:00.000Z"


def test_focus_stays_where_a_part_is_drawn_anew(tab):
    """By its place: on the second button before and after, on the last one if there are fewer."""
    script = """async () => {
        const host = module.el("div");
        document.body.append(host);
        const update = module.part(host, names => names.map(name => module.button(name, () => {})));
        update(["a", "b", "c"]);
        host.children[1].focus();
        const focused = names => { update(names); return document.activeElement.textContent; };
        const found = [focused(["a", "B", "c"]), focused(["a", "B", "c"]), focused(["d"])];
        document.activeElement.blur();
        found.push(focused(["e"]));
        host.remove();
        return found;
    }"""
    found = call(tab, "dom", script, None)

    assert found[:3] == ["B", "B", "d"]
    assert found[3] not in ("d", "e")


def test_list_stays_whole_while_rows_come(tab):
    """Rows that come while the node is asked are asked for after it; a reset of the same store leaves the place."""
    script = """async () => {
        const view = module.traces({ say() {} });
        document.querySelector("main").append(view.root);
        const list = view.root.querySelector(".list");
        list.style.height = "120px";
        const asked = async act => {
            performance.clearResourceTimings();
            await act();
            return performance.getEntriesByType("resource").filter(({ name }) => name.includes("/v1/traces?")).length;
        };
        const counts = [await asked(() => { const all = view.show({}); view.event("traces", []); return all; })];
        counts.push(await asked(() => view.show({})));
        list.scrollTop = 140;
        const places = [];
        for (const isOther of [false, true]) {
            counts.push(await asked(() => view.reset(isOther)));
            places.push(list.scrollTop);
        }
        view.root.remove();
        return [counts, places];
    }"""
    assert call(tab, "traces", script, None) == [[2, 0, 1, 1], [140, 0]]


def test_rows_of_an_older_query_are_never_under_a_newer_one(page_node, tab):
    """Where the node refuses the newer one, its message replaces the rows."""
    tab.go("#traces")
    assert tab.seqs()
    tab.expected.append("500")
    refuse = "**/page/v1/traces?*q=cap*"
    tab.page.route(refuse, lambda route: route.fulfill(status=500, json={"message": "it broke"}))
    try:
        tab.go("#traces?q=cap%3Alibrary.read")
        page_node.echo("meanwhile")
        tab.page.wait_for_selector(".feed .message:has-text('it broke')")
        assert tab.page.locator(".list").is_hidden()
    finally:
        tab.page.unroute(refuse)
    tab.page.get_by_role("button", name="Try again").click()
    tab.settle()
    wanted = page_node.sql("SELECT seq FROM traces WHERE capability = 'library.read' ORDER BY seq DESC")
    wait_until(lambda: tab.seqs() == [seq for (seq,) in wanted], tab.seqs)


def test_a_record_beyond_the_loaded_rows_opens(page_node, tab):
    """A link to it works, whatever the query of the list has."""
    seq = page_node.sql("SELECT seq FROM logs WHERE level = 'error' ORDER BY seq LIMIT 1")[0][0]
    tab.go(f"#logs?q=level%3Awarning&open={seq}")
    tab.page.wait_for_selector(".pane .msg")

    message = page_node.sql("SELECT msg FROM logs WHERE seq = ?", seq)[0][0]
    assert tab.text(".pane .msg") == message


def test_a_stream_may_be_cut_anywhere(tab):
    """The same events come out wherever the network splits the text; comments and unknown fields are none."""
    text = ': beat\n\nid: e:1\nevent: traces\ndata: [{"a":\ndata: "🏠"}]\n\nretry: 5\n\nevent: now\ndata: {}\n\n'
    script = """text => [...Array(text.length).keys()].map(at => {
        const found = [];
        const parser = new module.Parser(event => found.push(event));
        parser.push(text.slice(0, at));
        parser.push(text.slice(at));
        return JSON.stringify(found);
    })"""
    found = set(call(tab, "live", script, text))

    assert [orjson.loads(one) for one in found] == [
        [{"id": "e:1", "name": "traces", "data": [{"a": "🏠"}]}, {"id": "", "name": "now", "data": {}}]
    ]


def test_csv_is_read_by_a_spreadsheet_as_it_was(tab):
    """Quotes, commas and lines are quoted; what a spreadsheet would run is text."""
    rows = [["a,b", 'say "x"'], ["line\nbreak", None], ["=1+1", -5]]
    assert call(tab, "sql", "rows => module.csv(['x', 'y'], rows)", rows) == (
        'x,y\r\n"a,b","say ""x"""\r\n"line\nbreak",\r\n\'=1+1,-5'
    )


def test_page_comes_back_after_the_node_was_killed(page_node, tab, monkeypatch):
    """It says that the connection is lost, resumes by itself, and has each trace once; the run has its verdict."""
    tab.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]
    run = page_node.sql("SELECT run_id FROM runs WHERE role = 'node'")[0][0]
    tab.go("#traces")
    before = page_node.sql("SELECT count(*) FROM traces")[0][0]
    page_node.stop(signal.SIGKILL)
    tab.page.wait_for_selector(".connection.lost")
    monkeypatch.setenv("HOME", str(page_node.home))
    page_node.start()
    page_node.echo("again")
    tab.page.wait_for_selector(".connection.live", timeout=2 * PATIENCE_MS)
    page_node.wait_for_sql([(before + 1,)], "SELECT count(*) FROM traces")
    wait_until(lambda: tab.seqs()[:1] == [newest(page_node)], tab.seqs)

    assert (
        tab.seqs()
        == [seq for (seq,) in page_node.sql("SELECT seq FROM traces ORDER BY seq DESC LIMIT 100")][: len(tab.seqs())]
    )
    tab.go(f"#runs?open={run}")
    tab.page.wait_for_selector(".pane .outcome")
    assert "killed" in tab.text(".pane h2")
