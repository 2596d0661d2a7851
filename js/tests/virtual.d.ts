declare module "virtual:figures" {
  const figures: import("../src/protocol.ts").FigureJson;
  export default figures;
}

declare module "virtual:bokehjs" {
  /** Gzip of the installed BokehJS in base64. */
  const gzip: string;
  export default gzip;
}

declare module "*.css";
