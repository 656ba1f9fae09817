// Types of the module that page.py makes.

/** Kinds of interventions that the form writes. */
export const KINDS: { kind: string; target: string; strength: string; says: string }[];
