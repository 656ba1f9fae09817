// Types of the module that page.py makes.

/** Stands for the experts of a token without a routing row. */
export const NO_EXPERT: number;
/** Tokens of one block of routing records. */
export const ROUTING_BLOCK: number;
/** Tokens of one block of a head's positions. */
export const ATTENTION_BLOCK: number;
/** Headings of the phases, in the order of PHASES. */
export const PHASE_HEADINGS: string[];
