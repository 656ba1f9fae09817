// Types of the module that shell.py makes of the registry of pages.

export interface Page {
  name: string;
  /** Parts in angle brackets stand for any one part. */
  path: string;
  /** Names in angle brackets stand for those parts of the path. */
  title: string;
  /** Entry in the navigation, if it has one. */
  label: string | null;
  key: string | null;
  /** Keys, and what they do. */
  keys: [string, string][];
  /** Page whose entry is marked while this one is open. */
  under: string | null;
}

export const PAGES: Page[];
