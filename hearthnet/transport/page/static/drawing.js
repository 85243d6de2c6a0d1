// The drawings, which the HTML report of `autopsy` has as well.

export { bars, range, share, spark } from "./draw/charts.js";
export { waterfall } from "./draw/waterfall.js";
