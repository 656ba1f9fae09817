// Arrays that the server sends as base64 (shared/typed_arrays.py).

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

/**
 * @template {keyof typeof TYPES} K
 * @param {string} base64
 * @param {K} type
 * @returns {InstanceType<(typeof TYPES)[K]>}
 */
export const decode = (base64, type) => {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return /** @type {InstanceType<(typeof TYPES)[K]>} */ (new TYPES[type](bytes.buffer));
};
