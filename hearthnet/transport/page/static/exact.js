// JSON whose integers keep their digits: a number of the browser's has 53 bits, a recorded one 64.

// A quick look for an integer beyond 2^53: to look at each value takes several times as long as to parse.
const LARGE = /(?<![\d.])(?:9\d{15}|\d{17,})(?![\d.eE])/;
const INTEGER = /^-?\d+$/;

// It calculates as a number does, and is written digit for digit.
class Exact extends Number {
  constructor(digits) {
    super(digits);
    this.digits = digits;
  }

  toString() {
    return this.digits;
  }

  toJSON() {
    return JSON.rawJSON?.(this.digits) ?? this.digits;
  }
}

/** Returns the value of a JSON text. */
export function parse(text) {
  return LARGE.test(text) ? JSON.parse(text, revived) : JSON.parse(text);
}

// Browsers before 2025 do not give the source.
function revived(_, value, context) {
  const isRounded = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
  return isRounded && INTEGER.test(context?.source ?? "") ? new Exact(context.source) : value;
}
