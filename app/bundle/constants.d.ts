// Types of the module that assets.py makes.

/** What keys do, by the page that they act on. */
export const KEYS: Record<string, [string, string][]>;
