// Text of the query language: what the chips, links and "copy link" do to it. What it means is the node's business.

/** Returns a term that matches exactly this value, whatever is in it. */
export function term(field, value) {
  const text = String(value);
  return `${field}:${/^[\w.][\w.@/+-]*$/.test(text) ? text : JSON.stringify(text)}`;
}

/** Returns a query with a term more, unless it has that already. */
export function withTerm(query, more) {
  const text = query.trim();
  return ` ${text} `.includes(` ${more} `) ? text : `${text} ${more}`.trim();
}

/** Returns a query without some of its terms; the node counts characters, not UTF-16 units. */
export function without(query, terms) {
  const characters = Array.from(query);
  for (const { start, end } of [...terms].sort((a, b) => b.start - a.start)) {
    const [isSpaced, isFollowed] = [start - 1, end].map((at) => /^\s?$/.test(characters[at] ?? ""));
    characters.splice(start, end - start + (isSpaced && isFollowed), ...(isSpaced || isFollowed ? [] : [" "]));
  }
  return characters.join("").trim();
}

/** Returns the part of a query before, within and after a place. */
export function around(query, { start, end }) {
  const characters = Array.from(query);
  return [[0, start], [start, end], [end]].map(([from, until]) => characters.slice(from, until).join(""));
}

/** Returns a term of a time so that it means the same tomorrow; `us` is the moment that the node has read. */
export function fixedTime({ text, field, us, negated }) {
  return us === null ? text : `${negated ? "-" : ""}${field}:${new Date(us / 1000).toISOString()}`;
}

/** The terms that bound the time. */
export function timeTerms(terms) {
  return terms.filter(({ field }) => field === "since" || field === "until");
}
