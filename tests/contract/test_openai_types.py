"""What the pinned OpenAI SDK can send, key by key: each is honoured, harmless or refused by name, never unknown."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from openai.types import chat as sdk_chat
from openai.types import completion_create_params as sdk_completion
from openai.types import conversations as sdk_conversations
from openai.types import responses as sdk
from openai.types import shared_params
from openai.types.chat import chat_completion_custom_tool_param as sdk_custom
from openai.types.chat import completion_create_params as sdk_chat_params
from openai.types.conversations import (
    conversation_create_params,
    conversation_update_params,
    item_list_params,
    item_retrieve_params,
)
from openai.types.responses import (
    input_item_list_params,
    input_token_count_params,
    mcp_tool_call_error_param,
    namespace_tool_param,
    response_code_interpreter_tool_call_param,
    response_compact_params,
    response_create_params,
    response_function_web_search_param,
    response_input_item_param,
    response_output_item,
    response_output_text_param,
    response_reasoning_item_param,
    response_retrieve_params,
    tool_param,
    web_search_preview_tool_param,
    web_search_tool_param,
)
from pydantic import AliasChoices, BaseModel, TypeAdapter

from gptoss_adapter.routes import conversations as conversation_routes
from gptoss_adapter.routes import responses as response_routes
from gptoss_adapter.schemas import (
    chat,
    chat_tools,
    compaction,
    completions,
    conversations,
    custom_tools,
    hosted_items,
    hosted_tools,
    input_formats,
    mcp_items,
    mcp_tools,
    response_items,
    response_tools,
    responses,
    sampling,
)
from gptoss_adapter.strict_routes import StrictQueryRoute

SENT = [
    # chats
    (sdk_chat_params.CompletionCreateParamsStreaming, chat.ChatCompletionRequest),
    (sdk_chat.ChatCompletionStreamOptionsParam, sampling.StreamOptions),
    (sdk_chat.ChatCompletionDeveloperMessageParam, chat.DeveloperMessage),
    (sdk_chat.ChatCompletionSystemMessageParam, chat.SystemMessage),
    (sdk_chat.ChatCompletionUserMessageParam, chat.UserMessage),
    (sdk_chat.ChatCompletionAssistantMessageParam, chat.AssistantMessage),
    (sdk_chat.ChatCompletionToolMessageParam, chat.ToolMessage),
    (sdk_chat.ChatCompletionContentPartTextParam, chat.TextPart),
    (sdk_chat.ChatCompletionContentPartRefusalParam, chat.RefusalPart),
    (sdk_chat.ChatCompletionMessageFunctionToolCallParam, chat_tools.FunctionCall),
    (sdk_chat.ChatCompletionFunctionToolParam, chat_tools.FunctionTool),
    (sdk_chat.ChatCompletionNamedToolChoiceParam, chat_tools.FunctionChoice),
    (sdk_chat.ChatCompletionAllowedToolChoiceParam, chat_tools.AllowedToolsChoice),
    (sdk_chat.ChatCompletionAllowedToolsParam, chat_tools.AllowedTools),
    (sdk_chat.ChatCompletionCustomToolParam, chat_tools.CustomTool),
    (sdk_custom.Custom, chat_tools.Custom),
    (sdk_custom.CustomFormatGrammar, input_formats.NestedGrammar),
    (sdk_custom.CustomFormatGrammarGrammar, input_formats.InputGrammar),
    (sdk_chat.ChatCompletionMessageCustomToolCallParam, chat_tools.CustomCall),
    (sdk_chat.chat_completion_message_custom_tool_call_param.Custom, chat_tools.CalledCustomTool),
    (sdk_chat.ChatCompletionNamedToolChoiceCustomParam, chat_tools.CustomChoice),
    (shared_params.FunctionDefinition, chat_tools.Function),
    (shared_params.ResponseFormatText, chat.TextFormat),
    (shared_params.ResponseFormatJSONObject, chat.JsonObjectFormat),
    (shared_params.ResponseFormatJSONSchema, chat.JsonSchemaFormat),
    # completions
    (sdk_completion.CompletionCreateParamsStreaming, completions.CompletionRequest),
    # conversations
    (conversation_create_params.ConversationCreateParams, conversations.CreateConversation),
    (conversation_update_params.ConversationUpdateParams, conversations.UpdateConversation),
    (sdk.ResponseConversationParamParam, responses.ConversationParam),
    # responses
    (response_create_params.ResponseCreateParamsStreaming, responses.ResponseRequest),
    (response_create_params.StreamOptions, responses.EventOptions),
    (input_token_count_params.InputTokenCountParams, responses.InputTokensRequest),
    (response_compact_params.ResponseCompactParams, responses.CompactionRequest),
    (sdk.ResponseCompactionItemParamParam, compaction.CompactionItem),
    (shared_params.Reasoning, responses.ReasoningConfig),
    (sdk.ResponseTextConfigParam, responses.TextConfig),
    (sdk.ResponseFormatTextJSONSchemaConfigParam, responses.SchemaText),
    (sdk.FunctionToolParam, response_tools.ResponseTool),
    (sdk.NamespaceToolParam, response_tools.FunctionNamespace),
    (namespace_tool_param.ToolFunction, response_tools.ResponseTool),
    (sdk.CustomToolParam, custom_tools.ResponseCustomTool),
    (sdk.ToolChoiceCustomParam, custom_tools.NamedCustomTool),
    (shared_params.custom_tool_input_format.Grammar, input_formats.FlatGrammar),
    (shared_params.custom_tool_input_format.Text, input_formats.FreeInput),
    (sdk.ResponseCustomToolCallParam, response_items.CustomToolCallItem),
    (sdk.ResponseCustomToolCallOutputParam, response_items.CustomToolCallOutputItem),
    (sdk.ToolChoiceFunctionParam, response_tools.NamedFunction),
    (sdk.ToolChoiceAllowedParam, response_tools.AllowedFunctions),
    (sdk.ToolChoiceMcpParam, mcp_tools.NamedMcp),
    (tool_param.Mcp, mcp_tools.McpTool),
    (tool_param.McpAllowedToolsMcpToolFilter, mcp_tools.ToolFilter),
    (tool_param.McpRequireApprovalMcpToolApprovalFilter, mcp_tools.ApprovalFilters),
    (tool_param.McpRequireApprovalMcpToolApprovalFilterAlways, mcp_tools.ToolFilter),
    (tool_param.McpRequireApprovalMcpToolApprovalFilterNever, mcp_tools.ToolFilter),
    (sdk.WebSearchToolParam, hosted_tools.WebSearchOptions),
    (web_search_tool_param.Filters, hosted_tools.SearchFilters),
    (web_search_tool_param.UserLocation, hosted_tools.UserLocation),
    (sdk.WebSearchPreviewToolParam, hosted_tools.WebSearchOptions),
    (web_search_preview_tool_param.UserLocation, hosted_tools.UserLocation),
    (tool_param.CodeInterpreter, hosted_tools.CodeInterpreterTool),
    (tool_param.CodeInterpreterContainerCodeInterpreterToolAuto, hosted_tools.AutoContainer),
    (sdk.ToolChoiceTypesParam, hosted_tools.NamedHosted),
    (sdk.EasyInputMessageParam, response_items.MessageItem),
    (response_input_item_param.Message, response_items.MessageItem),
    (sdk.ResponseOutputMessageParam, response_items.MessageItem),
    (sdk.ResponseInputTextParam, response_items.MessagePart),
    (sdk.ResponseInputTextContentParam, response_items.MessagePart),
    (sdk.ResponseOutputTextParam, response_items.MessagePart),
    (response_output_text_param.AnnotationURLCitation, hosted_items.UrlCitation),
    (sdk.ResponseOutputRefusalParam, chat.RefusalPart),
    (sdk.ResponseReasoningItemParam, response_items.ReasoningItem),
    (response_reasoning_item_param.Content, response_items.ReasoningText),
    (response_reasoning_item_param.Summary, response_items.SummaryText),
    (sdk.ResponseFunctionToolCallParam, response_items.FunctionCallItem),
    (response_input_item_param.FunctionCallOutput, response_items.FunctionCallOutputItem),
    (response_input_item_param.ItemReference, response_items.ItemReference),
    (response_input_item_param.McpCall, mcp_items.McpCallItem),
    (response_input_item_param.McpListTools, mcp_items.McpListToolsItem),
    (response_input_item_param.McpListToolsTool, mcp_items.McpListedTool),
    (response_input_item_param.McpApprovalRequest, mcp_items.McpApprovalRequestItem),
    (response_input_item_param.McpApprovalResponse, mcp_items.McpApprovalResponseItem),
    (sdk.ResponseFunctionWebSearchParam, hosted_items.WebSearchCallItem),
    (response_function_web_search_param.ActionSearch, hosted_items.SearchAction),
    (response_function_web_search_param.ActionSearchSource, hosted_items.SearchSource),
    (response_function_web_search_param.ActionOpenPage, hosted_items.OpenPageAction),
    (response_function_web_search_param.ActionFind, hosted_items.FindAction),
    (sdk.ResponseCodeInterpreterToolCallParam, hosted_items.CodeInterpreterCallItem),
    (response_code_interpreter_tool_call_param.OutputLogs, hosted_items.CodeLogs),
    (response_code_interpreter_tool_call_param.OutputImage, hosted_items.CodeImage),
    (mcp_tool_call_error_param.McpProtocolError, mcp_items.McpProtocolError),
    (mcp_tool_call_error_param.McpToolExecutionError, mcp_items.McpToolExecutionError),
    (mcp_tool_call_error_param.HTTPError, mcp_items.McpHttpError),
]
"""What the SDK lets a program write, and what reads it."""

READ: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (sdk_chat.ChatCompletionMessage, chat.AssistantMessage),
    (sdk_chat.ParsedChatCompletionMessage, chat.AssistantMessage),
    (sdk_chat.ChatCompletionMessageFunctionToolCall, chat_tools.FunctionCall),
    (sdk_chat.ChatCompletionMessageCustomToolCall, chat_tools.CustomCall),
    (sdk_chat.chat_completion_message_custom_tool_call.Custom, chat_tools.CalledCustomTool),
    (sdk_chat.ParsedFunctionToolCall, chat_tools.FunctionCall),
    (sdk_chat.ParsedFunction, chat_tools.CalledFunction),
    (sdk_conversations.Message, response_items.MessageItem),
    (sdk.ResponseInputMessageItem, response_items.MessageItem),
    (sdk.ResponseOutputMessage, response_items.MessageItem),
    (sdk.ResponseInputText, response_items.MessagePart),
    (sdk.ResponseOutputText, response_items.MessagePart),
    (sdk.ResponseOutputRefusal, chat.RefusalPart),
    (sdk.ResponseReasoningItem, response_items.ReasoningItem),
    (sdk.ResponseCompactionItem, compaction.CompactionItem),
    (sdk.ResponseFunctionToolCall, response_items.FunctionCallItem),
    (sdk.ResponseFunctionToolCallItem, response_items.FunctionCallItem),
    (sdk.ResponseFunctionToolCallOutputItem, response_items.FunctionCallOutputItem),
    (sdk.ResponseCustomToolCall, response_items.CustomToolCallItem),
    (sdk.ResponseCustomToolCallItem, response_items.CustomToolCallItem),
    (sdk.ResponseCustomToolCallOutputItem, response_items.CustomToolCallOutputItem),
    (response_output_item.McpCall, mcp_items.McpCallItem),
    (response_output_item.McpListTools, mcp_items.McpListToolsItem),
    (response_output_item.McpListToolsTool, mcp_items.McpListedTool),
    (response_output_item.McpApprovalRequest, mcp_items.McpApprovalRequestItem),
    (response_output_item.McpApprovalResponse, mcp_items.McpApprovalResponseItem),
    (sdk.ResponseFunctionWebSearch, hosted_items.WebSearchCallItem),
    (sdk.ResponseCodeInterpreterToolCall, hosted_items.CodeInterpreterCallItem),
]
"""What the SDK reads an answer into, which programs dump and send back as input."""


def known(ours: type[BaseModel]) -> set[str]:
    """Return every name that a field of ours is read by."""
    names: set[str] = set()
    for name, field in ours.model_fields.items():
        alias = field.validation_alias
        names.update(map(str, alias.choices) if isinstance(alias, AliasChoices) else [str(alias or name)])
    return names


@pytest.mark.parametrize(("theirs", "ours"), SENT, ids=lambda one: one.__name__)
def test_keys_when_the_sdk_can_send_them_then_none_is_unknown(theirs: Any, ours: type[BaseModel]) -> None:  # noqa: ANN401
    assert set(theirs.__annotations__) - known(ours) == set()


@pytest.mark.parametrize(("theirs", "ours"), READ, ids=lambda one: one.__name__)
def test_keys_when_the_sdk_dumps_what_it_has_read_then_none_is_unknown(
    theirs: type[BaseModel], ours: type[BaseModel]
) -> None:
    names = set(theirs.model_fields) | {str(field.alias or name) for name, field in theirs.model_fields.items()}
    assert names - known(ours) == set()


@pytest.mark.parametrize("by_alias", [False, True])
def test_items_when_the_sdk_dumps_them_whole_then_they_are_read(by_alias: bool) -> None:
    call = sdk.ResponseFunctionToolCallItem(
        id="fc_1", arguments="{}", call_id="c", name="f", type="function_call", status="completed"
    )
    result = sdk.ResponseFunctionToolCallOutputItem(
        id="fco_1", call_id="c", output="4", type="function_call_output", status="completed"
    )
    dumped = [item.model_dump(by_alias=by_alias) for item in (call, result)]

    [read, _] = items = TypeAdapter(list[response_items.InputItem]).validate_python(dumped)

    assert "async" in read.model_dump()
    assert TypeAdapter(list[response_items.InputItem]).validate_python([item.model_dump() for item in items]) == items


@pytest.mark.parametrize(
    ("theirs", "path"),
    [
        (response_retrieve_params.ResponseRetrieveParamsNonStreaming, "/v1/responses/{response_id}"),
        (input_item_list_params.InputItemListParams, "/v1/responses/{response_id}/input_items"),
        (item_list_params.ItemListParams, "/v1/conversations/{conversation_id}/items"),
        (item_retrieve_params.ItemRetrieveParams, "/v1/conversations/{conversation_id}/items/{item_id:path}"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_query_when_the_sdk_can_send_it_then_none_of_it_is_unknown(theirs: Any, path: str) -> None:  # noqa: ANN401
    routes = [*response_routes.router.routes, *conversation_routes.router.routes]
    [route] = [one for one in routes if isinstance(one, StrictQueryRoute) and one.path == path and "GET" in one.methods]
    known = {field.alias for field in (*route.dependant.query_params, *route.dependant.path_params)}
    assert set(get_type_hints(theirs)) - known == set()


def test_values_when_the_sdk_names_them_then_they_are_known() -> None:
    assert set(get_args(responses.Includable)) == set(get_args(sdk.ResponseIncludable))
    efforts = {value for one in get_args(get_type_hints(shared_params.Reasoning)["effort"]) for value in get_args(one)}
    assert efforts == set(get_args(chat.Effort))
