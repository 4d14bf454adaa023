// Numbers and times, for people. A dash where nothing is known.
export const DASH = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number with as many digits as one reads. */
export function number(n) {
  if (n === null || n === undefined) return DASH;
  if (Math.abs(n) >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  return Number.isInteger(n) || Math.abs(n) >= 100 ? whole.format(n) : String(Number(n.toFixed(1)));
}

export const rate = (n) => (n === null || n === undefined ? DASH : `${number(n)}/s`);

export function percent(share) {
  if (share === null || share === undefined) return DASH;
  const n = share * 100;
  if (n === 0) return "0 %";
  return n < 0.1 ? "< 0.1 %" : `${n < 10 ? Number(n.toFixed(1)) : Math.round(n)} %`;
}

export function ms(n) {
  if (n === null || n === undefined) return DASH;
  if (n < 1) return `${Number(n.toFixed(2))} ms`;
  if (n < 1000) return `${n < 10 ? Number(n.toFixed(1)) : Math.round(n)} ms`;
  return seconds(n / 1000);
}

export function seconds(n) {
  if (n === null || n === undefined) return DASH;
  if (n < 1) return ms(n * 1000);
  if (n < 60) return `${n < 10 ? Number(n.toFixed(1)) : Math.round(n)} s`;
  if (n < 3600) return `${Math.floor(n / 60)} min ${Math.round(n % 60)} s`;
  if (n < 86400) return `${Math.floor(n / 3600)} h ${Math.floor((n % 3600) / 60)} min`;
  return `${Math.floor(n / 86400)} d ${Math.floor((n % 86400) / 3600)} h`;
}

export function bytes(n) {
  if (n === null || n === undefined) return DASH;
  let unit = 0;
  while (n >= 1024 && unit < 4) {
    n /= 1024;
    unit++;
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : Number(n.toFixed(1))} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** A moment (RFC 3339 or milliseconds) as the time of this day, or with its date. */
export function clock(at) {
  const when = new Date(at);
  if (Number.isNaN(when.getTime())) return DASH;
  const time = when.toLocaleTimeString("en-GB");
  return Date.now() - when < 12 * 3600e3 ? time : `${when.toLocaleDateString("en-CA")} ${time}`;
}

export const ago = (at) => `${seconds(Math.max(0, Math.round((Date.now() - new Date(at)) / 1000)))} ago`;

const minutes = (at) => new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

/** When something ends, for people: "for 3 min, until 12:30". */
export function until(at) {
  const left = Math.round((new Date(at) - Date.now()) / 1000);
  if (Number.isNaN(left)) return DASH;
  const span = left < 60 ? `${Math.max(0, left)} s` : left < 3600 ? `${Math.round(left / 60)} min` : seconds(left);
  return `for ${span}, until ${left < 12 * 3600 ? minutes(at) : clock(at)}`;
}

/** A text of the API with its moments (RFC 3339) as the time of this day. */
export const timely = (text) => String(text ?? "").replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, (at) => (Math.abs(new Date(at) - Date.now()) < 12 * 3600e3 ? minutes(at) : clock(at)));

/** A word of the API as people read it. */
export const word = (text) => String(text).replaceAll("_", "-");

export const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
