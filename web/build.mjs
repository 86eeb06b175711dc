// Builds the pages into landrace/server/page/static, or into the folder that is named. The same sources and the same
// package-lock.json give the same bytes.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../landrace/server/page/static"));
const assets = join(out, "assets");

// Every browser that can run the page reads woff2, so KaTeX's other font files stay out.
const woff2Only = {
  name: "woff2-only",
  setup(builder) {
    builder.onLoad({ filter: /katex(\.min)?\.css$/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8")).replace(/,\s*url\([^)]*\.(woff|ttf)\)\s*format\([^)]*\)/g, ""),
      loader: "css",
    }));
  },
};

await rm(out, { recursive: true, force: true });
await mkdir(assets, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: [
    { in: "src/main.ts", out: "app" },
    { in: "styles/page.css", out: "style" },
    { in: "styles/math.css", out: "math" },
    { in: "src/admin/main.ts", out: "admin" },
    { in: "styles/admin.css", out: "admin" },
  ],
  outdir: assets,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  metafile: true,
  loader: { ".woff2": "file", ".svg": "dataurl" },
  plugins: [woff2Only],
  logLevel: "warning",
});

const built = (await readdir(assets)).sort();
const named = (start, end) => built.find((name) => name.startsWith(`${start}-`) && name.endsWith(end));

async function addHashed(name, text) {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 8).toUpperCase();
  const [stem, extension] = name.split(".");
  const hashed = `${stem}-${hash}.${extension}`;
  await writeFile(join(assets, hashed), text);
  return hashed;
}

// What the licences of the libraries ask for: their texts go wherever their code goes.
async function licences() {
  const inside = Object.keys(result.metafile.inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  const texts = [];
  for (const name of [...new Set(inside)].filter(Boolean).sort()) {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e(\.md|\.txt)?$/i.test(entry));
    if (!file) throw new Error(`${name} comes without the text of its licence`);
    texts.push(`${name} ${version} (${license})\n\n${(await readFile(join(folder, file), "utf8")).trim()}\n`);
  }
  return `This page contains these libraries.\n\n${texts.join(`\n${"-".repeat(80)}\n\n`)}`;
}

const places = {
  "%SCRIPT%": named("app", ".js"),
  "%STYLE%": named("style", ".css"),
  "%MATH%": named("math", ".css"),
  "%ADMIN-SCRIPT%": named("admin", ".js"),
  "%ADMIN-STYLE%": named("admin", ".css"),
  "%ICON%": await addHashed("icon.svg", await readFile(join(here, "icon.svg"), "utf8")),
  "%LICENCES%": await addHashed("licences.txt", await licences()),
};
const all = createHash("sha256");
for (const name of ["index.html", "admin.html"]) {
  let page = await readFile(join(here, name), "utf8");
  for (const [place, file] of Object.entries(places)) page = page.replaceAll(place, `assets/${basename(file)}`);
  await writeFile(join(out, name), page);
  all.update(page);
}
for (const name of (await readdir(assets)).sort()) all.update(name).update(await readFile(join(assets, name)));
console.log(`${out}: ${all.digest("hex")}`);
