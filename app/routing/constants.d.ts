// Types of the module that usage_payload.py makes.

/** A number of an expert: its label, heading of a column, what it counts, name in the glossary. */
interface Metric {
  name: string;
  label: string;
  heading: string;
  title: string;
  term: string;
}
export const METRICS: Metric[];
/** Labels of phases, and of what is made of several. */
export const PHASE_LABELS: Record<string, string>;
/** Why a metric is not known. */
export const UNKNOWN: string;
