// What other scripts put on the window.

type Theme = "dark" | "light";

/** Dash's own functions, and those of ours that its callbacks call, by namespace. */
interface DashClientside {
  no_update: object;
  set_props(id: string, props: Record<string, unknown>): void;
  [namespace: string]: unknown;
}

interface GridApi {
  getCacheBlockState(): object | undefined;
  getDisplayedRowCount(): number;
  ensureIndexVisible(index: number): void;
  refreshInfiniteCache(): void;
  purgeInfiniteCache(): void;
}

interface Window {
  /** Of first_paint.js. */
  ringlens: { theme(): Theme; setTheme(theme: Theme): void };
  dash_clientside: DashClientside;
  dash_ag_grid?: { getApiAsync(id: string): Promise<GridApi> };
  dashAgGridComponentFunctions?: Record<string, unknown>;
  React: { createElement(...parts: unknown[]): unknown };
  Plotly: { toImage(graph: HTMLElement, options: Record<string, unknown>): Promise<string> };
  DashRenderer: new () => unknown;
}
