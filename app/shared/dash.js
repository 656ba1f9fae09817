// What ours and Dash's scripts tell one another.

/**
 * Make known the functions that Dash's callbacks call by this namespace.
 * @param {string} namespace
 * @param {Record<string, (...inputs: any[]) => unknown>} functions
 */
export const clientside = (namespace, functions) => {
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside[namespace] = functions;
};

/** What a callback returns that leaves its output as it is. */
export const noUpdate = () => window.dash_clientside.no_update;

/**
 * A callback that does something and leaves its output as it is.
 * @template {any[]} A
 * @param {(...inputs: A) => unknown} act
 * @returns {(...inputs: A) => object}
 */
export const quietly =
  (act) =>
  (...inputs) => {
    act(...inputs);
    return noUpdate();
  };

/**
 * Set properties of a component, as if a callback had.
 * @param {string} id
 * @param {Record<string, unknown>} props
 */
export const setProps = (id, props) => window.dash_clientside.set_props(id, props);

/**
 * Make known components that draw cells of grids.
 * @param {Record<string, (params: any) => unknown>} components
 */
export const gridCells = (components) => {
  window.dashAgGridComponentFunctions = Object.assign(
    window.dashAgGridComponentFunctions || {},
    components,
  );
};

/** @param {unknown[]} parts */
export const react = (...parts) => window.React.createElement(...parts);
