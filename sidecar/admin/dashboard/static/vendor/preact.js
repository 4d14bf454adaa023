// Ours: what the pages use of preact 11.2.0 (preact-core.js; preact-hooks.js, which imports that in place of "preact") and
// htm 3.1.1 (htm.js, with preact's createElement).
import htm from "./htm.js";
import { Component, h, render } from "./preact-core.js";

export * from "./preact-hooks.js";
export { Component, h, render };
export const html = htm.bind(h);
