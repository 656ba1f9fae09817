// What a widget gives its frame.

import type { Boot as Usage } from "../routing/types.js";
import type { Host } from "../shared/host.js";
import type { Boot } from "../trace/types.js";

/** What is selected, whom to tell of it, and whom to ask. */
export interface Ties {
  selected: number[];
  fetchJson: Host["fetchJson"];
  /** Tell what was selected here. */
  choose(selected: number[]): void;
  /** Have a function told what was selected elsewhere. */
  onSelected(take: (selected: number[]) => void): void;
}

export interface GivenTrace extends Ties {
  kind: "trace";
  boot: Boot;
}

export interface GivenRouting extends Ties {
  kind: "routing";
  boot: Usage;
}

export type Given = GivenTrace | GivenRouting;
