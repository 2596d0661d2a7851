/** Colors as numbers. Pure functions. */

export type Rgb = readonly [red: number, green: number, blue: number];

/** Red, green and blue of "#rrggbb" or of the browser's "rgb(r, g, b)". */
export function rgbOf(color: string): Rgb {
  const hex = /^#(..)(..)(..)$/.exec(color)?.slice(1);
  const parts = hex
    ? hex.map((digits) => Number.parseInt(digits, 16))
    : (color.match(/[\d.]+/g) ?? []).map(Number);
  const [red = 0, green = 0, blue = 0] = parts;
  return [red, green, blue];
}

/** Writes the color of each value, as BokehJS maps it; undefined values stay transparent. */
export function paint(
  pixels: Uint8ClampedArray,
  values: Float32Array,
  colors: {
    readonly palette: readonly Rgb[];
    readonly below: Rgb;
    readonly limits: readonly [number, number];
  },
): void {
  const { palette, below, limits } = colors;
  const [low, high] = limits;
  const last = palette.length - 1;
  const steps = palette.length / (high - low);
  values.forEach((value, k) => {
    if (Number.isNaN(value)) return;
    const step = Math.min(last, Math.floor((value - low) * steps));
    const color = value < low ? below : (palette[step] ?? below);
    pixels.set(color, 4 * k);
    pixels[4 * k + 3] = 255;
  });
}

/** Relative luminance of "#rrggbb", as WCAG 2 defines it. */
export function luminance(color: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(color.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
