// Checks each dashboard against the types of schema.ts: a field that Grafana doesn't know, one that is
// missing, and a value that its schema doesn't have are errors. Run by `npm test`.
import { readFileSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const here = dirname(fileURLToPath(import.meta.url));
const dashboards = join(here, '..', 'dashboards');

/** The compiler's view of the files: the dashboards are no files, but literals in these. */
const sources = new Map();
for (const name of readdirSync(dashboards).filter((name) => name.endsWith('.json'))) {
  const json = readFileSync(join(dashboards, name), 'utf8');
  JSON.parse(json);
  const text = `import type { DashboardJson } from './schema';\nexport const dashboard: DashboardJson =\n${json};\n`;
  sources.set(join(here, `${name}.ts`), text);
}
if (sources.size === 0) {
  console.error(`no dashboards in ${dashboards}`);
  process.exit(1);
}

const options = {
  exactOptionalPropertyTypes: false,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  noEmit: true,
  skipLibCheck: true,
  strict: true,
  target: ts.ScriptTarget.ES2022,
  types: [],
};
const host = ts.createCompilerHost(options);
const { fileExists, readFile, getSourceFile } = host;
host.fileExists = (file) => sources.has(file) || fileExists(file);
host.readFile = (file) => sources.get(file) ?? readFile(file);
host.getSourceFile = (file, language, ...rest) =>
  sources.has(file)
    ? ts.createSourceFile(file, sources.get(file), language)
    : getSourceFile(file, language, ...rest);

const program = ts.createProgram([...sources.keys()], options, host);
const errors = ts.getPreEmitDiagnostics(program);
for (const error of errors) {
  const text = ts.flattenDiagnosticMessageText(error.messageText, '\n');
  if (error.file === undefined) {
    console.error(text);
    continue;
  }
  // Two lines stand before the dashboard.
  const line = error.file.getLineAndCharacterOfPosition(error.start).line - 1;
  const file = join(dashboards, basename(error.file.fileName, '.ts'));
  console.error(`${file}:${line}: ${text}`);
}
console.log(`${sources.size} dashboards checked, ${errors.length} errors`);
process.exit(errors.length === 0 ? 0 : 1);
