// What a dashboard of ours may be: the types that Grafana publishes for its schema, put together so that
// each kind of panel is checked with its own options. Only the kinds that we use are known.
import type { AnnotationQuery, DataQuery, DataSourceRef, DataTransformerConfig } from '@grafana/schema';
import type * as Raw from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as StateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** A type as JSON has it: the names of an enumeration are plain strings there. */
type Json<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Json<Item>[]
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

/** A query of the Prometheus data source; its plugin is published elsewhere. */
interface PrometheusQuery extends DataQuery {
  datasource: DataSourceRef;
  editorMode: 'code';
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  range: boolean;
  legendFormat: string;
}

interface Annotation extends AnnotationQuery<DataQuery & { expr: string }> {
  tagKeys?: string;
  textFormat?: string;
  titleFormat?: string;
  useValueForTime?: boolean;
}

interface Link {
  title: string;
  url: string;
  targetBlank: boolean;
}

interface Field<Custom> extends Omit<Raw.FieldConfig, 'custom' | 'links' | 'mappings'> {
  custom?: Custom;
  links?: Link[];
  mappings?: Mapping[];
}

type Mapping = Raw.ValueMap | Raw.SpecialValueMap | Raw.RangeMap;

interface Sources<Custom> {
  defaults: Field<Custom>;
  overrides: Override<Custom>[];
}

/** Properties that overrides of ours set, each with the type that it has in the field itself. */
type Property<Custom> =
  | { [Key in keyof Field<Custom> & string]-?: { id: Key; value: Field<Custom>[Key] } }[keyof Field<Custom> & string]
  | { [Key in keyof Custom & string]-?: { id: `custom.${Key}`; value: Custom[Key] } }[keyof Custom & string];

interface Override<Custom> {
  matcher: { id: 'byName' | 'byRegexp' | 'byFrameRefID'; options: string };
  properties: Property<Custom>[];
}

interface Kind<Type extends string, Options, Custom>
  extends Omit<Raw.Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'transformations'> {
  type: Type;
  options: Options;
  fieldConfig: Sources<Custom>;
  targets: PrometheusQuery[];
  transformations?: DataTransformerConfig<Record<string, unknown>>[];
}

type Panel =
  | Kind<'bargauge', BarGauge.Options, Record<string, never>>
  | Kind<'heatmap', Heatmap.Options, Heatmap.FieldConfig>
  | Kind<'stat', Stat.Options, Record<string, never>>
  | Kind<'state-timeline', StateTimeline.Options, StateTimeline.FieldConfig>
  | Kind<'table', Table.Options, Table.FieldConfig>
  | Kind<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>;

interface Dashboard extends Omit<Raw.Dashboard, 'annotations' | 'panels'> {
  annotations: { list: Annotation[] };
  panels: (Panel | (Omit<Raw.RowPanel, 'panels'> & { panels: Panel[] }))[];
}

export type DashboardJson = Json<Dashboard>;
